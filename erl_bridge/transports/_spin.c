/* The spin of _spin.h for a descriptor, which may be one of epoll; see spinner.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_spin.h"

static PyObject *spin_for(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    int fd, outcome;
    long long limit, preempted;
    if (!PyArg_ParseTuple(arguments, "iLL", &fd, &limit, &preempted)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    outcome = spin(fd, limit, preempted);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(outcome);
}

static PyMethodDef methods[] = {
    {"spin", spin_for, METH_VARARGS,
     "spin(fd, limit_ns, preempted_ns, /)\n--\n\n"
     "What came of looking for input: 0 it was there, 1 nothing, 2 it came, 3 it came to a process that was preempted."},
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
