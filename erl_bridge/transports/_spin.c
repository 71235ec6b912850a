/* The spin of _spin.h for some descriptors; see spinner.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <poll.h>

#include "_spin.h"

enum { MOST = 64 }; /* descriptors */

typedef struct {
    struct pollfd in[MOST];
    nfds_t count;
} Descriptors;

static int any_is_ready(void *at)
{
    Descriptors *all = at;
    return poll(all->in, all->count, 0) > 0;
}

static PyObject *ready_of(const Descriptors *all)
{
    PyObject *ready = PyList_New(0);
    for (nfds_t i = 0; ready && i < all->count; i++) {
        if (!all->in[i].revents) continue;
        PyObject *one = Py_BuildValue("(ii)", all->in[i].fd, all->in[i].revents);
        if (!one || PyList_Append(ready, one) < 0) Py_CLEAR(ready);
        Py_XDECREF(one);
    }
    return ready;
}

static PyObject *spin_for(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *fds;
    long long limit, preempted;
    Descriptors all;
    if (!PyArg_ParseTuple(arguments, "O!LL", &PyTuple_Type, &fds, &limit, &preempted)) return NULL;
    const Py_ssize_t count = PyTuple_GET_SIZE(fds);
    if (count > MOST) return PyErr_Format(PyExc_ValueError, "spin() takes at most %d descriptors, got %zd", MOST, count);
    all.count = (nfds_t)count;
    for (Py_ssize_t i = 0; i < count; i++) {
        all.in[i] = (struct pollfd){.fd = (int)PyLong_AsLong(PyTuple_GET_ITEM(fds, i)), .events = POLLIN};
    }
    if (PyErr_Occurred()) return NULL;
    int outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = spin(any_is_ready, &all, limit, preempted);
    Py_END_ALLOW_THREADS
    return Py_BuildValue("(iN)", outcome, outcome == SPIN_IN_VAIN ? PyList_New(0) : ready_of(&all));
}

static PyMethodDef methods[] = {
    {"spin", spin_for, METH_VARARGS,
     "spin(fds, limit_ns, preempted_ns, /)\n--\n\n"
     "What came of looking for input (0 it was there, 1 none, 2 it came, 3 it came to a process that was preempted), and\n"
     "the descriptors that have some, with their events as poll() gives them."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "erl_bridge.transports._spin",
    .m_doc = "Looking for input without going to sleep.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__spin(void) { return PyModuleDef_Init(&definition); }
