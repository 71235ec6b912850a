/* The fast path of a Port: from the descriptor to the descriptor, for requests that are answered at once.

   It does for the commonest requests what transports/, framing.py, session.py, wire/port.py and dispatch.py do for all,
   and nothing else: whatever is not as it expects it gives to them. So messages, limits and errors are theirs, and what a
   reader has to trust is that an answer of this file is the one that they would have given (tests/test_fast_path.py).
   Why it is there: whenever the client has run in between, the processor has forgotten the code of the bridge, and then
   each function of Python that is called costs a multiple of what it costs in a loop. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../_fast_path.h"
#include "_spin.h"

enum { HEADER = 4, ROOM = 4096, READ_SIZE = 65536, WRITE_SIZE = 65536 };

/* ---- a lock that is taken here without Python: as that of threading, which C cannot take ---- */

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
} Lock;

/* An exception that there is stays. */
static void acquire(PyObject *lock)
{
    PyThread_type_lock inner = ((Lock *)lock)->lock;
    if (PyThread_acquire_lock(inner, NOWAIT_LOCK)) return;
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(inner, WAIT_LOCK);
    Py_END_ALLOW_THREADS
}

static void release(PyObject *lock) { PyThread_release_lock(((Lock *)lock)->lock); }

static PyObject *lock_new(PyTypeObject *type, PyObject *Py_UNUSED(arguments), PyObject *Py_UNUSED(keywords))
{
    Lock *self = (Lock *)type->tp_alloc(type, 0);
    if (self && !(self->lock = PyThread_allocate_lock())) {
        Py_CLEAR(self);
        PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void lock_dealloc(Lock *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->lock) PyThread_free_lock(self->lock);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *lock_acquire(PyObject *self, PyObject *Py_UNUSED(nothing))
{
    acquire(self);
    Py_RETURN_TRUE;
}

static PyObject *lock_release(PyObject *self, PyObject *Py_UNUSED(arguments))
{
    release(self);
    Py_RETURN_NONE;
}

static PyMethodDef lock_methods[] = {
    {"acquire", lock_acquire, METH_NOARGS, "Wait until nobody has it, and take it."},
    {"release", lock_release, METH_NOARGS, "Let go of it; it must be held."},
    {"__enter__", lock_acquire, METH_NOARGS, NULL},
    {"__exit__", lock_release, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lock_slots[] = {
    {Py_tp_doc, "A lock that compiled code can take; as that of threading otherwise."},
    {Py_tp_new, lock_new},
    {Py_tp_dealloc, lock_dealloc},
    {Py_tp_methods, lock_methods},
    {0, NULL},
};

static PyType_Spec lock_spec = {
    .name = "erl_bridge.transports._fast_path.Lock",
    .basicsize = sizeof(Lock),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lock_slots,
};

static PyObject *lock_type;

/* What a fast path is given; see fast_path.py. */
typedef struct {
    PyObject *habit;        /* whether to spin before it sleeps; see spinner.py */
    PyObject *serving;      /* a Lock that is held but for the time in which it waits for bytes */
    PyObject *writing;      /* a Lock that who writes holds */
    PyObject *client, *handlers; /* handlers is a dict, from the names of requests to what answers them for a client */
    PyObject *in_flight;    /* a dict that is empty where no request is in flight */
    PyObject *is_in_flight; /* whether the one of an id is */
    PyObject *parse;        /* the Request or the Failure for a term and its atoms */
    PyObject *hand_over;    /* takes a Request or a Failure, and its answer or None */
    PyObject *held;         /* a list that is empty where nothing else is to be written first */
    PyObject *write_held;   /* writes it */
    PyObject *limits, *vocabulary;
} Given;
enum { GIVEN = sizeof(Given) / sizeof(PyObject *) };

typedef struct {
    PyObject_HEAD
    Given given;
    int in, out; /* descriptors */
    long long spin_ns, preempted_ns;
    PyObject *lesson; /* borrowed: what the last spin was worth, for the habit once what came is answered */
    Py_ssize_t max_frame;
    PyObject *answers; /* a bytearray */
    Py_ssize_t used;   /* bytes in it */
    int looks_by_reading;
    ssize_t read; /* bytes in the buffer that a look has read; -1 for none */
    char buffer[READ_SIZE];
} FastPath;

static inline PyObject **given(FastPath *self, size_t index) { return (PyObject **)&self->given + index; }

/* ---- from bytes to a request ---- */

/* The Request, or the Failure, in a frame; NULL for what is no term. */
static PyObject *receive(FastPath *self, PyObject *data, Py_ssize_t begin, Py_ssize_t stop)
{
    PyObject *atoms = PySet_New(NULL);
    if (!atoms) return NULL;
    PyObject *received = NULL;
    PyObject *term = its.core->decode(its.core->state, data, begin, stop, 1, self->given.limits, atoms);
    if (term) {
        received = common_request(term, atoms, Py_None);
        if (!received && !PyErr_Occurred()) received = PyObject_CallFunctionObjArgs(self->given.parse, term, atoms, NULL);
        Py_DECREF(term);
    }
    Py_DECREF(atoms);
    return received;
}

/* ---- from a request to its answer ---- */

/* Whether a request of that id is in flight. */
static int is_in_flight(FastPath *self, PyObject *id)
{
    if (PyDict_GET_SIZE(self->given.in_flight) == 0) return 0;
    PyObject *answer = PyObject_CallOneArg(self->given.is_in_flight, id);
    int found = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return found;
}

/* What answers the request at once; NULL where something else does. */
static PyObject *handler_of(FastPath *self, PyObject *received)
{
    if (!Py_IS_TYPE(received, (PyTypeObject *)its.request_type)) return NULL;
    PyObject *handler = PyDict_GetItemWithError(self->given.handlers, *slot_of(received, its.request[REQUEST_TYPE]));
    if (!handler || is_in_flight(self, *slot_of(received, its.request[MESSAGE_ID]))) return NULL;
    return Py_NewRef(handler);
}

/* Adds the frame of a result to the answers. */
static int add_answer(FastPath *self, PyObject *request, PyObject *result)
{
    const Py_ssize_t body = self->used + HEADER;
    if (PyByteArray_GET_SIZE(self->answers) < body && PyByteArray_Resize(self->answers, body + ROOM) < 0) return -1;
    PyObject *id = *slot_of(request, its.request[MESSAGE_ID]), *atoms = *slot_of(request, its.request[ATOMS]);
    PyObject *term = PyTuple_Pack(3, its.ok, id, result);
    if (!term) return -1;
    Py_ssize_t end = its.core->encode(its.core->state, term, self->given.vocabulary, atoms, self->answers, body);
    Py_DECREF(term);
    if (end < 0 || end - body > (Py_ssize_t)UINT32_MAX) return -1;
    put_u32((uint8_t *)PyByteArray_AS_STRING(self->answers) + self->used, (uint32_t)(end - body));
    self->used = end;
    return 0;
}

/* Returns -1 for what a signal raises. The client may be gone; the end of the input says so to the reader. */
static int write_all(int out, const char *bytes, Py_ssize_t size)
{
    while (size) {
        ssize_t done;
        Py_BEGIN_ALLOW_THREADS
        done = write(out, bytes, (size_t)size);
        Py_END_ALLOW_THREADS
        if (done < 0 && errno != EINTR) return 0;
        if (done < 0 && PyErr_CheckSignals() < 0) return -1;
        if (done < 0) continue;
        bytes += done;
        size -= done;
    }
    return 0;
}

/* Gives a large buffer back. To shrink it would make malloc ask the system for each large one, whose pages are all new. */
static int begin_anew(FastPath *self)
{
    PyObject *fresh = PyByteArray_FromStringAndSize(NULL, ROOM);
    if (fresh) Py_SETREF(self->answers, fresh);
    return fresh ? 0 : -1;
}

/* Writes what is there: events of a request before its answer. */
static int flush(FastPath *self)
{
    if (PyList_GET_SIZE(self->given.held)) {
        PyObject *nothing = PyObject_CallNoArgs(self->given.write_held);
        Py_XDECREF(nothing);
        if (!nothing) return -1;
    }
    if (!self->used) return 0;
    acquire(self->given.writing);
    int status = write_all(self->out, PyByteArray_AS_STRING(self->answers), self->used);
    self->used = 0;
    release(self->given.writing);
    if (status < 0) return -1;
    return PyByteArray_GET_SIZE(self->answers) > 2 * WRITE_SIZE ? begin_anew(self) : 0;
}

static int hand_over(FastPath *self, PyObject *received, PyObject *message)
{
    PyObject *nothing = PyObject_CallFunctionObjArgs(self->given.hand_over, received, message, NULL);
    Py_XDECREF(nothing);
    return nothing ? 0 : -1;
}

/* Answers a request with what its handler says, or leaves it to others: a failure, a result that cannot be sent. */
static int answer_with(FastPath *self, PyObject *request, PyObject *answer, int is_result)
{
    if (is_result) {
        if (add_answer(self, request, answer) == 0) return self->used < WRITE_SIZE ? 0 : flush(self);
        PyErr_Clear(); /* it is met again */
    } else if (answer == Py_None) {
        return 0; /* it comes later */
    }
    PyObject *message = message_of(request, answer, is_result);
    int status = message ? hand_over(self, request, message) : -1;
    Py_XDECREF(message);
    return status;
}

static int serve(FastPath *self, PyObject *received)
{
    PyObject *handler = handler_of(self, received);
    if (!handler) return PyErr_Occurred() ? -1 : hand_over(self, received, Py_None);
    int is_result;
    PyObject *answer = answer_of(handler, self->given.client, received, &is_result);
    int status = answer ? answer_with(self, received, answer, is_result) : -1;
    Py_DECREF(handler);
    Py_XDECREF(answer);
    return status;
}

/* Whether the error at hand ends the process. Any other is met again by those who get the bytes. */
static int is_fatal(void)
{
    if (!PyErr_Occurred()) return 0;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) return 1;
    PyErr_Clear();
    return 0;
}

/* Serves the frame that begins at *at, and moves it behind. Returns 0 where that is for others, -1 for an exception. */
static int serve_frame(FastPath *self, PyObject *data, Py_ssize_t *at)
{
    const Py_ssize_t size = PyBytes_GET_SIZE(data), begin = *at + HEADER;
    if (begin > size) return 0;
    const Py_ssize_t length = get_u32((const uint8_t *)PyBytes_AS_STRING(data) + *at);
    if (length > self->max_frame || length > size - begin) return 0;
    PyObject *received = receive(self, data, begin, begin + length);
    if (!received) return is_fatal() ? -1 : 0;
    *at = begin + length;
    int status = serve(self, received);
    Py_DECREF(received);
    return status < 0 ? -1 : 1;
}

/* ---- waiting ---- */

static int tell(PyObject *habit, PyObject *method, PyObject *value)
{
    PyObject *nothing = value ? PyObject_CallMethodOneArg(habit, method, value) : NULL;
    Py_XDECREF(nothing);
    return nothing ? 0 : -1;
}

/* Whether there is input: bytes that are read already, where the system can do that without waiting. */
static int look(void *path)
{
    FastPath *self = path;
#ifdef RWF_NOWAIT
    if (self->looks_by_reading) {
        struct iovec into = {self->buffer, READ_SIZE};
        self->read = preadv2(self->in, &into, 1, -1, RWF_NOWAIT);
        if (self->read >= 0) return 1;
        if (errno == EAGAIN) return 0;
        self->looks_by_reading = 0; /* not for such a descriptor, or an error, which the next read is told too */
    }
#endif
    struct pollfd in = {.fd = self->in, .events = POLLIN};
    return poll(&in, 1, 0) > 0;
}

/* Whether something has come before it slept; -1 for an exception. */
static int spin_if_worth_it(FastPath *self)
{
    if (self->lesson && tell(self->given.habit, its.learn, self->lesson) < 0) return -1;
    self->lesson = NULL;
    PyObject *alone = PyDict_GET_SIZE(self->given.in_flight) ? Py_False : Py_True;
    PyObject *spins = PyObject_CallMethodOneArg(self->given.habit, its.spins, alone);
    int outcome = spins ? PyObject_IsTrue(spins) : -1;
    Py_XDECREF(spins);
    if (outcome <= 0) return outcome;
    Py_BEGIN_ALLOW_THREADS
    outcome = spin(look, self, self->spin_ns, self->preempted_ns);
    Py_END_ALLOW_THREADS
    if (outcome == SPIN_THERE_BEFORE) return 1;
    self->lesson = outcome == SPIN_WORTH_IT ? Py_True : Py_False;
    return outcome != SPIN_IN_VAIN;
}

/* What has been read, or is: it sleeps until there is something. */
static PyObject *sleep_and_read(FastPath *self)
{
    ssize_t size = self->read;
    self->read = -1;
    while (size < 0) {
        Py_BEGIN_ALLOW_THREADS
        size = read(self->in, self->buffer, READ_SIZE);
        Py_END_ALLOW_THREADS
        if (size >= 0 || errno != EINTR || PyErr_CheckSignals() < 0) break;
    }
    return PyErr_Occurred() ? NULL : PyBytes_FromStringAndSize(self->buffer, size < 0 ? 0 : size);
}

static PyObject *wait_and_read(FastPath *self)
{
    if (!self->spin_ns) return sleep_and_read(self);
    long long begin = now_ns();
    int come = spin_if_worth_it(self);
    PyObject *data = come < 0 ? NULL : sleep_and_read(self);
    if (!data || come) return data;
    PyObject *seconds = PyFloat_FromDouble((double)(now_ns() - begin) / 1e9);
    int status = tell(self->given.habit, its.waited, seconds);
    Py_XDECREF(seconds);
    if (status < 0) Py_CLEAR(data);
    return data;
}

/* The bytes that come next; none at the end of the input. */
static PyObject *read_next(FastPath *self)
{
    release(self->given.serving);
    PyObject *data = wait_and_read(self);
    acquire(self->given.serving);
    return data;
}

PyDoc_STRVAR(read_doc, "read($self, /)\n--\n\n"
                       "Serve what comes until that is not enough: then the bytes that are for others; none at the end.");

static PyObject *fast_path_read(FastPath *self, PyObject *Py_UNUSED(nothing))
{
    for (;;) {
        PyObject *data = read_next(self);
        if (!data || !PyBytes_CheckExact(data) || !PyBytes_GET_SIZE(data)) return data;
        Py_ssize_t at = 0;
        int status;
        while ((status = serve_frame(self, data, &at)) > 0) {}
        if (status == 0) status = flush(self);
        if (status == 0) status = PyErr_CheckSignals();
        const Py_ssize_t left = PyBytes_GET_SIZE(data) - at;
        PyObject *rest = status == 0 && left ? PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + at, left) : NULL;
        Py_DECREF(data);
        if (status < 0 || left) return rest;
    }
}

/* ---- the type ---- */

static PyObject *new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"fd_in",        "fd_out",     "max_frame",    "spin_ns", "preempted_ns", "habit",
                            "serving",      "writing",    "client",       "handlers", "in_flight",
                            "is_in_flight", "parse",      "hand_over",    "held",    "write_held",   "limits",
                            "vocabulary",   NULL};
    int in, out;
    long long spin_ns, preempted_ns;
    Py_ssize_t max_frame;
    Given g;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iinLLOO!O!OO!O!OOOO!OOO!", names, &in, &out, &max_frame, &spin_ns, &preempted_ns, &g.habit,
                                     lock_type, &g.serving, lock_type, &g.writing, &g.client, &PyDict_Type, &g.handlers, &PyDict_Type, &g.in_flight,
                                     &g.is_in_flight, &g.parse, &g.hand_over, &PyList_Type, &g.held, &g.write_held,
                                     &g.limits, &PyFrozenSet_Type, &g.vocabulary)) {
        return NULL;
    }
    FastPath *self = (FastPath *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->given = g;
    for (size_t i = 0; i < GIVEN; i++) Py_INCREF(*given(self, i));
    self->in = in;
    self->out = out;
    self->spin_ns = spin_ns;
    self->preempted_ns = preempted_ns;
    self->max_frame = max_frame;
    self->looks_by_reading = 1;
    self->read = -1;
    self->answers = PyByteArray_FromStringAndSize(NULL, ROOM);
    if (!self->answers) Py_CLEAR(self);
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
    Py_CLEAR(self->answers);
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

static PyMethodDef type_methods[] = {
    {"read", (PyCFunction)fast_path_read, METH_NOARGS, read_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot type_slots[] = {
    {Py_tp_doc, "See erl_bridge.transports.fast_path."},
    {Py_tp_new, new},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {Py_tp_methods, type_methods},
    {0, NULL},
};

static PyType_Spec type_spec = {
    .name = "erl_bridge.transports._fast_path.FastPath",
    .basicsize = sizeof(FastPath),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = type_slots,
};

/* ---- the module ---- */

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "erl_bridge.transports._fast_path",
    .m_doc = "See erl_bridge.transports.fast_path.",
    .m_size = -1,
};

/* What is taken here is kept as long as the process: the codec lets nobody else but the main interpreter come so far. */
PyMODINIT_FUNC PyInit__fast_path(void)
{
    if (take_all() < 0 || !(lock_type = PyType_FromSpec(&lock_spec))) return NULL;
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module ? PyType_FromSpec(&type_spec) : NULL;
    int status = type ? PyModule_AddObjectRef(module, "FastPath", type) : -1;
    if (status == 0) status = PyModule_AddObjectRef(module, "Lock", lock_type);
    Py_XDECREF(type);
    if (status < 0) Py_CLEAR(module);
    return module;
}
