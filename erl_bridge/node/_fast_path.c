/* The fast path of a node: from the bytes of a call to the bytes of its answer, for requests that are answered at once.

   A call is found by wire/shortcuts.py. What follows is what bridge.py, wire/port.py, dispatch.py, session.py and
   wire/dist.py do for all of them; whatever is not as it is expected goes to these. See transports/_fast_path.c. */

#include "../_fast_path.h"

enum { LENGTH = 4, HEADER = 68, ROOM = 4096, FRAGMENT = 64 * 1024 };

static const char *const ORIGIN_NAMES[] = {"bridge", "node", "caller", "tag", "alias"};
enum { BRIDGE, NODE, CALLER, TAG, ALIAS, ORIGIN_SLOTS };

static PyObject *origin_type, *message_id_text;
static Py_ssize_t origin[ORIGIN_SLOTS];

typedef struct {
    PyObject *bridge;
    PyObject *client;   /* of those that have nothing in flight */
    PyObject *clients;  /* a dict, empty where nobody has */
    PyObject *handlers; /* a dict, from the names of requests to what answers them for a client */
    PyObject *limits, *atoms;
} Given;
enum { GIVEN = sizeof(Given) / sizeof(PyObject *) };

typedef struct {
    PyObject_HEAD
    Given given;
    PyObject *frame; /* a bytearray; NULL while it is in use */
} FastPath;

static inline PyObject **given(FastPath *self, size_t index) { return (PyObject **)&self->given + index; }

/* A call that was found: where its request is in the data, and the terms that its answer is made of. */
typedef struct {
    PyObject *node, *data;
    Py_ssize_t begin, stop;
    PyObject *caller, *tag, *alias;     /* bytes, without version bytes */
    PyObject *head, *to_alias, *sender; /* of the control term of the answer */
} FoundCall;

/* ---- from the bytes to a request ---- */

/* Gives a request that has no id the one that it is said to have: the alias of its call. Returns -1 where it cannot. */
static int give_id(FastPath *self, const FoundCall *call, PyObject *term, PyObject *atoms)
{
    if (!PyDict_CheckExact(term)) return 0;
    int has = PyDict_Contains(term, its.message_id);
    if (has == 0) has = PyDict_Contains(term, message_id_text);
    if (has) return has < 0 ? -1 : 0;
    PyObject *id = its.core->decode(its.core->state, call->alias, 0, PyBytes_GET_SIZE(call->alias), 0,
                                    self->given.limits, atoms);
    int status = id ? PyDict_SetItem(term, its.message_id, id) : -1;
    Py_XDECREF(id);
    return status;
}

static PyObject *origin_of(FastPath *self, const FoundCall *call)
{
    PyObject *const values[] = {Py_NewRef(self->given.bridge), Py_NewRef(call->node), Py_NewRef(call->caller),
                                Py_NewRef(call->tag), Py_NewRef(call->alias)};
    return of_slots(origin_type, origin, values, ORIGIN_SLOTS);
}

static PyObject *request_of(FastPath *self, const FoundCall *call)
{
    PyObject *atoms = PySet_New(NULL), *from = atoms ? origin_of(self, call) : NULL, *request = NULL;
    PyObject *term = from ? its.core->decode(its.core->state, call->data, call->begin, call->stop, 0,
                                             self->given.limits, atoms)
                          : NULL;
    if (term && give_id(self, call, term, atoms) == 0) request = common_request(term, atoms, from);
    Py_XDECREF(term);
    Py_XDECREF(from);
    Py_XDECREF(atoms);
    return request;
}

/* ---- from the answer to bytes ---- */

static uint8_t *put(uint8_t *at, PyObject *bytes)
{
    memcpy(at, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    return at + PyBytes_GET_SIZE(bytes);
}

/* What is before the result: a frame up to `{tag, ...`, of which the length is to come. Returns its size, or -1. */
static Py_ssize_t begin_frame(PyObject *frame, const FoundCall *call)
{
    PyObject *to = call->to_alias == Py_True ? call->alias : call->caller;
    Py_ssize_t size = LENGTH + 3 + PyBytes_GET_SIZE(call->head) + PyBytes_GET_SIZE(call->sender) + PyBytes_GET_SIZE(to) +
                      2 + PyBytes_GET_SIZE(call->tag);
    if (PyByteArray_GET_SIZE(frame) < size && PyByteArray_Resize(frame, size + ROOM) < 0) return -1;
    uint8_t *at = (uint8_t *)PyByteArray_AS_STRING(frame) + LENGTH;
    *at++ = VERSION_BYTE;
    *at++ = HEADER;
    *at++ = 0; /* no atoms in the header */
    at = put(put(put(at, call->head), call->sender), to);
    *at++ = SMALL_TUPLE;
    *at++ = 2;
    put(at, call->tag);
    return size;
}

/* Whether an answer is sure to take more than a fragment, or likely, as an echo of what is large: it is not encoded twice. */
static int is_large(const FoundCall *call, PyObject *result)
{
    return call->stop - call->begin >= FRAGMENT || (PyBytes_CheckExact(result) && PyBytes_GET_SIZE(result) >= FRAGMENT) ||
           (PyUnicode_CheckExact(result) && PyUnicode_GET_LENGTH(result) >= FRAGMENT);
}

/* The frame of an answer; NULL where it is for others. */
static PyObject *frame_of(FastPath *self, const FoundCall *call, PyObject *frame, PyObject *request, PyObject *result)
{
    Py_ssize_t size = is_large(call, result) ? -1 : begin_frame(frame, call);
    PyObject *term = size < 0 ? NULL : PyTuple_Pack(2, its.ok, result);
    if (!term) return NULL;
    /* Within a frame a term has no version byte: it is written over the byte before, which is then put back. */
    const char before = PyByteArray_AS_STRING(frame)[size - 1];
    Py_ssize_t end = its.core->encode(its.core->state, term, self->given.atoms,
                                      *slot_of(request, its.request[ATOMS]), frame, size - 1);
    Py_DECREF(term);
    if (end < 0 || end - size >= FRAGMENT) return NULL;
    char *bytes = PyByteArray_AS_STRING(frame);
    bytes[size - 1] = before;
    put_u32((uint8_t *)bytes, (uint32_t)(end - LENGTH));
    return PyBytes_FromStringAndSize(bytes, end);
}

/* ---- a call ---- */

/* Gives a large buffer back; see transports/_fast_path.c. */
static int begin_anew(FastPath *self)
{
    PyObject *fresh = PyByteArray_FromStringAndSize(NULL, ROOM);
    if (fresh) Py_SETREF(self->frame, fresh);
    return fresh ? 0 : -1;
}

/* The frame that answers the request, or the request and the message that others are to answer it with. */
static PyObject *answer_request(FastPath *self, const FoundCall *call, PyObject *request, PyObject *handler)
{
    int is_result;
    PyObject *answer = answer_of(handler, self->given.client, request, &is_result);
    if (!answer) return NULL;
    PyObject *frame = NULL, *buffer = self->frame;
    if (buffer && is_result) {
        self->frame = NULL;
        frame = frame_of(self, call, buffer, request, answer);
        self->frame = buffer;
        if (!frame) PyErr_Clear(); /* it is met again */
        if (PyByteArray_GET_SIZE(buffer) > 2 * FRAGMENT && begin_anew(self) < 0) Py_CLEAR(frame);
    }
    PyObject *message = frame || PyErr_Occurred() ? NULL : message_of(request, answer, is_result);
    if (message) frame = PyTuple_Pack(2, request, message);
    Py_XDECREF(message);
    Py_DECREF(answer);
    return frame;
}

static int take_call(PyObject *const *arguments, Py_ssize_t count, FoundCall *call)
{
    if (count != 10) return -1;
    *call = (FoundCall){arguments[0], arguments[1], PyLong_AsSsize_t(arguments[2]), PyLong_AsSsize_t(arguments[3]),
                        arguments[4], arguments[5], arguments[6], arguments[7], arguments[8], arguments[9]};
    if (PyErr_Occurred()) return -1;
    PyObject *const all[] = {call->data, call->caller, call->tag, call->alias, call->head, call->sender};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!PyBytes_CheckExact(all[i])) return -1;
    }
    return call->begin < 0 || call->stop < call->begin || call->stop > PyBytes_GET_SIZE(call->data) ? -1 : 0;
}

static PyObject *answer(FastPath *self, PyObject *const *arguments, Py_ssize_t count)
{
    FoundCall call;
    if (take_call(arguments, count, &call) < 0) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "answer() takes a call as wire/shortcuts.py finds it");
        return NULL;
    }
    PyObject *request = request_of(self, &call);
    if (!request) {
        if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) return NULL;
        PyErr_Clear(); /* it is met again */
        Py_RETURN_NONE;
    }
    PyObject *handler = NULL;
    if (PyDict_GET_SIZE(self->given.clients) == 0) {
        handler = PyDict_GetItemWithError(self->given.handlers, *slot_of(request, its.request[REQUEST_TYPE]));
    }
    if (!handler) return PyErr_Occurred() ? (Py_DECREF(request), NULL) : request;
    Py_INCREF(handler);
    PyObject *answered = answer_request(self, &call, request, handler);
    Py_DECREF(handler);
    Py_DECREF(request);
    return answered;
}

/* ---- the type and the module ---- */

static PyObject *new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"bridge", "client", "clients", "handlers", "limits", "atoms", NULL};
    Given g;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "OOO!O!OO!", names, &g.bridge, &g.client, &PyDict_Type,
                                     &g.clients, &PyDict_Type, &g.handlers, &g.limits, &PyFrozenSet_Type, &g.atoms)) {
        return NULL;
    }
    FastPath *self = (FastPath *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->given = g;
    for (size_t i = 0; i < GIVEN; i++) Py_INCREF(*given(self, i));
    self->frame = PyByteArray_FromStringAndSize(NULL, ROOM);
    if (!self->frame) Py_CLEAR(self);
    return (PyObject *)self;
}

static int traverse(FastPath *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < GIVEN; i++) Py_VISIT(*given(self, i));
    return 0;
}

static int clear(FastPath *self)
{
    for (size_t i = 0; i < GIVEN; i++) Py_CLEAR(*given(self, i));
    Py_CLEAR(self->frame);
    return 0;
}

static void dealloc(FastPath *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(answer_doc,
             "answer($self, node, data, begin, end, caller, tag, alias, head, to_alias, sender, /)\n--\n\n"
             "The frame that answers a call; or its Request, which is for others; or that and its message; or None where\n"
             "there is no Request of the commonest kind.");

static PyMethodDef type_methods[] = {
    {"answer", (PyCFunction)(void (*)(void))answer, METH_FASTCALL, answer_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_doc, "See erl_bridge.node.bridge."},
    {Py_tp_new, new},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {Py_tp_methods, type_methods},
    {0, NULL},
};

static PyType_Spec type_spec = {
    .name = "erl_bridge.node._fast_path.FastPath",
    .basicsize = sizeof(FastPath),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = type_slots,
};

static int take_origin(void)
{
    if (take(&origin_type, "erl_bridge.node.bridge", "FoundOrigin") < 0) return -1;
    for (int i = 0; i < ORIGIN_SLOTS; i++) {
        if ((origin[i] = slot_offset(origin_type, ORIGIN_NAMES[i])) < 0) return -1;
    }
    message_id_text = PyUnicode_InternFromString("message_id");
    return message_id_text ? 0 : -1;
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "erl_bridge.node._fast_path",
    .m_doc = "The fast path of a node.",
    .m_size = -1,
};

PyMODINIT_FUNC PyInit__fast_path(void)
{
    if (take_all() < 0 || take_origin() < 0) return NULL;
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module ? PyType_FromSpec(&type_spec) : NULL;
    int status = type ? PyModule_AddObjectRef(module, "FastPath", type) : -1;
    Py_XDECREF(type);
    if (status < 0) Py_CLEAR(module);
    return module;
}
