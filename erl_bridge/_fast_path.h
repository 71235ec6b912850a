/* What the fast paths of a Port and of a node share: from a term to a Request of the commonest kind, and from that to
   what its handler answers. */

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

enum { OUTLET, CONTEXT_TYPE, CONTEXT_ID, CONTEXT_METADATA, DEADLINE, STOPPED, WAITING, LAST_WAIT, CONTEXT_SLOTS };
static const char *const CONTEXT_NAMES[] = {"_outlet",  "request_type", "message_id", "metadata",
                                            "deadline", "_stopped",     "_waiting",   "_last_wait"};

enum { INLINE_CLIENT, INLINE_REQUEST, BEST, FINISHED, INLINE_SLOTS };
static const char *const INLINE_NAMES[] = {"client", "request", "best", "finished"};

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

/* An object of such a class; takes the references to its values. NULL where one is missing, or there is no memory. */
static PyObject *of_slots(PyObject *type, const Py_ssize_t *offsets, PyObject *const *values, int count)
{
    PyObject *made = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    for (int i = 0; i < count; i++) {
        if (!values[i]) Py_CLEAR(made);
    }
    for (int i = 0; i < count; i++) {
        if (made) *slot_of(made, offsets[i]) = values[i];
        else Py_XDECREF(values[i]);
    }
    return made;
}

/* ---- the module's own ---- */

static struct {
    const CoreApi *core;
    PyObject *request_type, *reply_type, *atom_type, *context_type, *inline_type, *handler_type;
    PyObject *failure_of, *monotonic; /* functions */
    Py_ssize_t request[REQUEST_SLOTS], context[CONTEXT_SLOTS], outlet[INLINE_SLOTS];
    Py_ssize_t reply_result, atom_name, handler_function;
    PyObject *zero;
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

    PyObject *const values[] = {
        Py_NewRef(id),
        Py_NewRef(*slot_of(type, its.atom_name)),
        Py_NewRef(payload),
        metadata ? Py_NewRef(metadata) : PyDict_New(),
        Py_NewRef(timeout),
        Py_NewRef(atoms),
        Py_NewRef(origin),
    };
    return of_slots(its.request_type, its.request, values, REQUEST_SLOTS);
}

/* ---- from a request to what its handler answers ---- */

/* As deadline_of() in dispatch.py. */
static PyObject *deadline_of(PyObject *request)
{
    PyObject *timeout = *slot_of(request, its.request[TIMEOUT_MS]);
    if (timeout == Py_None) return Py_NewRef(Py_None);
    PyObject *now = PyObject_CallNoArgs(its.monotonic);
    PyObject *deadline = now ? PyFloat_FromDouble(PyFloat_AsDouble(now) + PyLong_AsDouble(timeout) / 1000) : NULL;
    Py_XDECREF(now);
    return deadline;
}

static PyObject *context_of(PyObject *request, PyObject *outlet)
{
    PyObject *of_request[REQUEST_SLOTS];
    for (int i = 0; i < REQUEST_SLOTS; i++) of_request[i] = *slot_of(request, its.request[i]);
    PyObject *const values[] = {
        Py_NewRef(outlet),      Py_NewRef(of_request[REQUEST_TYPE]), Py_NewRef(of_request[MESSAGE_ID]), Py_NewRef(of_request[METADATA]),
        deadline_of(request),   Py_NewRef(Py_False),                 PyDict_New(),                      Py_NewRef(its.zero),
    };
    return of_slots(its.context_type, its.context, values, CONTEXT_SLOTS);
}

/* The exception at hand, which is taken away. */
static PyObject *taken_exception(void)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback) PyException_SetTraceback(error, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
}

/* As InlineHandler in dispatch.py: the result, or the Failure. */
static PyObject *run_inline(PyObject *handler, PyObject *client, PyObject *request, int *is_result)
{
    PyObject *const values[] = {Py_NewRef(client), Py_NewRef(request), Py_NewRef(Py_None), Py_NewRef(Py_False)};
    PyObject *outlet = of_slots(its.inline_type, its.outlet, values, INLINE_SLOTS);
    PyObject *context = outlet ? context_of(request, outlet) : NULL, *answer = NULL;
    if (context) {
        PyObject *function = *slot_of(handler, its.handler_function);
        answer = PyObject_CallFunctionObjArgs(function, *slot_of(request, its.request[PAYLOAD]), context, NULL);
        *is_result = answer != NULL;
        if (!answer) {
            PyObject *error = taken_exception();
            answer = PyObject_CallFunctionObjArgs(its.failure_of, request, error, *slot_of(outlet, its.outlet[BEST]), NULL);
            Py_DECREF(error);
        }
        Py_SETREF(*slot_of(outlet, its.outlet[FINISHED]), Py_NewRef(Py_True));
    }
    Py_XDECREF(outlet);
    Py_XDECREF(context);
    return answer;
}

/* What a handler answers a request with: the result of a Reply, or another message, or None for later. */
static PyObject *answer_of(PyObject *handler, PyObject *client, PyObject *request, int *is_result)
{
    *is_result = 0;
    if (Py_IS_TYPE(handler, (PyTypeObject *)its.handler_type)) return run_inline(handler, client, request, is_result);
    PyObject *message = PyObject_CallFunctionObjArgs(handler, client, request, NULL);
    if (!message || !Py_IS_TYPE(message, (PyTypeObject *)its.reply_type)) return message;
    *is_result = 1;
    PyObject *result = Py_NewRef(*slot_of(message, its.reply_result));
    Py_DECREF(message);
    return result;
}

/* The message that others are to send. */
static PyObject *message_of(PyObject *request, PyObject *answer, int is_result)
{
    if (!is_result) return Py_NewRef(answer);
    return PyObject_CallFunctionObjArgs(its.reply_type, *slot_of(request, its.request[MESSAGE_ID]), answer, NULL);
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

typedef struct {
    PyObject **into;
    const char *module, *name;
} Imported;

static const Imported IMPORTED[] = {
    {&its.request_type, "erl_bridge.messages", "Request"},   {&its.reply_type, "erl_bridge.messages", "Reply"},
    {&its.atom_type, "erl_bridge.terms", "Atom"},            {&its.context_type, "erl_bridge.context", "Context"},
    {&its.inline_type, "erl_bridge.dispatch", "Inline"},     {&its.handler_type, "erl_bridge.dispatch", "InlineHandler"},
    {&its.failure_of, "erl_bridge.dispatch", "failure_of"},  {&its.monotonic, "time", "monotonic"},
};

typedef struct {
    PyObject **type;
    const char *const *names;
    Py_ssize_t *into;
    int count;
} Slots;

static const char *const RESULT[] = {"result"}, *const NAME[] = {"name"}, *const FUNCTION[] = {"function"};
static const Slots SLOTS[] = {
    {&its.request_type, REQUEST_NAMES, its.request, REQUEST_SLOTS},
    {&its.context_type, CONTEXT_NAMES, its.context, CONTEXT_SLOTS},
    {&its.inline_type, INLINE_NAMES, its.outlet, INLINE_SLOTS},
    {&its.reply_type, RESULT, &its.reply_result, 1},
    {&its.atom_type, NAME, &its.atom_name, 1},
    {&its.handler_type, FUNCTION, &its.handler_function, 1},
};

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
    for (size_t i = 0; i < sizeof IMPORTED / sizeof *IMPORTED; i++) {
        if (take(IMPORTED[i].into, IMPORTED[i].module, IMPORTED[i].name) < 0) return -1;
    }
    for (size_t i = 0; i < sizeof SLOTS / sizeof *SLOTS; i++) {
        const Slots *slots = &SLOTS[i];
        for (int k = 0; k < slots->count; k++) {
            if ((slots->into[k] = slot_offset(*slots->type, slots->names[k])) < 0) return -1;
        }
    }
    if (!(its.zero = PyLong_FromLong(0))) return -1;
    for (size_t i = 0; i < sizeof ATOMS_OF / sizeof *ATOMS_OF; i++) {
        if (!(*ATOMS_OF[i].into = PyObject_CallFunction(its.atom_type, "s", ATOMS_OF[i].name))) return -1;
    }
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        if (!(*TEXTS[i].into = PyUnicode_InternFromString(TEXTS[i].name))) return -1;
    }
    return 0;
}

#endif
