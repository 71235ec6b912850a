/* What the fast paths of a Port and of a node share: a Request of the commonest kind, made of a term. */

#ifndef ERL_BRIDGE_FAST_PATH_H
#define ERL_BRIDGE_FAST_PATH_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include "etf/_core.h"

#define MAX_TIMEOUT_MS 0xFFFFFFFFLL

/* ---- objects of classes with slots, which are written in Python ---- */

enum { MESSAGE_ID, REQUEST_TYPE, PAYLOAD, METADATA, TIMEOUT_MS, ATOMS, ORIGIN, REQUEST_SLOTS };
static const char *const REQUEST_NAMES[] = {"message_id", "request_type", "payload", "metadata",
                                            "timeout_ms", "atoms",        "origin"};

static Py_ssize_t slot_offset(PyObject *type, const char *name)
{
    PyObject *slot = PyObject_GetAttrString(type, name);
    Py_ssize_t offset = -1;
    if (slot && Py_IS_TYPE(slot, &PyMemberDescr_Type)) offset = ((PyMemberDescrObject *)slot)->d_member->offset;
    if (slot && offset < 0) PyErr_Format(PyExc_ImportError, "%R.%s is no slot", type, name);
    Py_XDECREF(slot);
    return offset;
}

static inline PyObject **slot_of(PyObject *value, Py_ssize_t offset) { return (PyObject **)((char *)value + offset); }

/* ---- the module's own ---- */

static struct {
    const CoreApi *core;
    PyObject *request_type, *reply_type, *failure_type, *atom_type;
    Py_ssize_t request[REQUEST_SLOTS], reply_result, atom_name;
    PyObject *ok, *message_id, *type, *payload, *metadata, *timestamp, *timeout_ms; /* atoms */
    PyObject *timeout_text, *spins, *learn, *waited;                                /* texts */
} its;

/* ---- from a term to a request ---- */

static PyObject *field(PyObject *map, PyObject *key, Py_ssize_t *left)
{
    PyObject *value = PyDict_GetItemWithError(map, key);
    if (value) --*left;
    return value;
}

/* Whether `metadata` is a map that is read here; its deadline, a borrowed reference or None. */
static int read_metadata(PyObject *metadata, PyObject **timeout)
{
    *timeout = Py_None;
    if (!PyDict_CheckExact(metadata)) return 0;
    if (PyDict_GET_SIZE(metadata) == 0) return 1;
    PyObject *found = PyDict_GetItemWithError(metadata, its.timeout_ms);
    if (!found) return !PyErr_Occurred() && PyDict_Contains(metadata, its.timeout_text) == 0;
    if (!PyLong_CheckExact(found)) return 0;
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(found, &overflow);
    *timeout = found;
    return !overflow && number > 0 && number <= MAX_TIMEOUT_MS;
}

/* The request in a map as nearly all are; NULL for any other. */
static PyObject *common_request(PyObject *term, PyObject *atoms, PyObject *origin)
{
    if (!PyDict_CheckExact(term)) return NULL;
    Py_ssize_t left = PyDict_GET_SIZE(term);
    PyObject *id = field(term, its.message_id, &left), *type = field(term, its.type, &left);
    PyObject *payload = field(term, its.payload, &left), *metadata = field(term, its.metadata, &left);
    PyObject *timeout = Py_None;
    if (left && field(term, its.timestamp, &left) && left) return NULL;
    if (left || !id || !type || !payload || !Py_IS_TYPE(type, (PyTypeObject *)its.atom_type)) return NULL;
    if (!PyDict_CheckExact(payload) || (metadata && !read_metadata(metadata, &timeout))) return NULL;

    PyTypeObject *kind = (PyTypeObject *)its.request_type;
    PyObject *request = kind->tp_alloc(kind, 0);
    PyObject *given = metadata ? Py_NewRef(metadata) : PyDict_New();
    if (!request || !given) {
        Py_XDECREF(request);
        Py_XDECREF(given);
        return NULL;
    }
    *slot_of(request, its.request[MESSAGE_ID]) = Py_NewRef(id);
    *slot_of(request, its.request[REQUEST_TYPE]) = Py_NewRef(*slot_of(type, its.atom_name));
    *slot_of(request, its.request[PAYLOAD]) = Py_NewRef(payload);
    *slot_of(request, its.request[METADATA]) = given;
    *slot_of(request, its.request[TIMEOUT_MS]) = Py_NewRef(timeout);
    *slot_of(request, its.request[ATOMS]) = Py_NewRef(atoms);
    *slot_of(request, its.request[ORIGIN]) = Py_NewRef(origin);
    return request;
}

/* ---- what is taken from Python once for each module ---- */

static int take(PyObject **into, const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    *into = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return *into ? 0 : -1;
}

typedef struct {
    PyObject **into;
    const char *name;
} Named;

static const Named ATOMS_OF[] = {
    {&its.ok, "ok"},           {&its.message_id, "message_id"}, {&its.type, "request_type"}, {&its.payload, "payload"},
    {&its.metadata, "metadata"}, {&its.timestamp, "timestamp"},   {&its.timeout_ms, "timeout_ms"},
};
static const Named TEXTS[] = {
    {&its.timeout_text, "timeout_ms"}, {&its.spins, "spins"}, {&its.learn, "learn"}, {&its.waited, "waited"},
};

static int take_all(void)
{
    its.core = PyCapsule_Import(CORE_API, 0);
    if (!its.core) return -1;
    if (take(&its.request_type, "erl_bridge.messages", "Request") < 0 ||
        take(&its.reply_type, "erl_bridge.messages", "Reply") < 0 ||
        take(&its.failure_type, "erl_bridge.messages", "Failure") < 0 ||
        take(&its.atom_type, "erl_bridge.terms", "Atom") < 0) {
        return -1;
    }
    for (int i = 0; i < REQUEST_SLOTS; i++) {
        if ((its.request[i] = slot_offset(its.request_type, REQUEST_NAMES[i])) < 0) return -1;
    }
    if ((its.reply_result = slot_offset(its.reply_type, "result")) < 0) return -1;
    if ((its.atom_name = slot_offset(its.atom_type, "name")) < 0) return -1;
    for (size_t i = 0; i < sizeof ATOMS_OF / sizeof *ATOMS_OF; i++) {
        if (!(*ATOMS_OF[i].into = PyObject_CallFunction(its.atom_type, "s", ATOMS_OF[i].name))) return -1;
    }
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        if (!(*TEXTS[i].into = PyUnicode_InternFromString(TEXTS[i].name))) return -1;
    }
    return 0;
}

#endif
