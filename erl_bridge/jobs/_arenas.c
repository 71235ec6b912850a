/* Gives Python's allocator its arenas out of huge pages, in a job process.

   A job that makes many objects at once, such as the rows of a dataset, otherwise takes a fault for each 4 KiB of them,
   which costs as much as a third of making them. Where there are no huge pages this changes nothing. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <sys/mman.h>

#if defined(MADV_HUGEPAGE) && defined(MAP_ANONYMOUS)

#define HUGE_PAGE ((uintptr_t)2 << 20)
#define REGION ((uintptr_t)32 << 20) /* mapped at once; a page of it is only taken when it is used */

static uintptr_t next, end;

static void *map(size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

/* Called with the interpreter lock held. */
static void *allocate(void *context, size_t size)
{
    (void)context;
    if (end - next < size) {
        uintptr_t region = (uintptr_t)map(REGION);
        if (!region) return map(size); /* a limit on memory is near */
        next = (region + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        end = region + REGION;
        madvise((void *)next, end - next, MADV_HUGEPAGE);
        if (end - next < size) return map(size);
    }
    next += size;
    return (void *)(next - size);
}

/* Also for arenas from before. */
static void release(void *context, void *at, size_t size)
{
    (void)context;
    munmap(at, size);
}

static PyObject *use(PyObject *module, PyObject *arguments)
{
    (void)module;
    (void)arguments;
    PyObjectArenaAllocator arenas = {NULL, allocate, release};
    PyObject_SetArenaAllocator(&arenas);
    Py_RETURN_NONE;
}

#else

static PyObject *use(PyObject *module, PyObject *arguments)
{
    (void)module;
    (void)arguments;
    Py_RETURN_NONE;
}

#endif

PyDoc_STRVAR(use_doc, "use($module, /)\n--\n\nFrom now on arenas are made of huge pages, as far as there are any.");

static PyMethodDef methods[] = {{"use", use, METH_NOARGS, use_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "erl_bridge.jobs._arenas",
    .m_doc = "Arenas out of huge pages.",
    .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__arenas(void) { return PyModule_Create(&definition); }
