/* From Python values to the external term format, as encoder.py does it, which says what is right.

   Bytes go into one buffer, which is the caller's bytearray where there is one. Open containers are a stack of frames, so
   nothing recurses. The commonest types are written here; for others the tables of encoder.py are asked, which know how
   to write a leaf or open a container.

   A container could change while Python code runs (`default`, or another thread). So before any Python code is called
   the open containers are replaced by copies of what is still to be written of them (`freeze`); where none is called
   nothing can change, and nothing is copied.

   Functions that fail return -1, with an exception or without: the pure-Python encoder then says what is wrong. */

#include "_core.h"

enum { SEQUENCE, DICT };

typedef struct {
    PyObject *container; /* a list or a tuple, or a dict */
    PyObject *value;     /* of a dict, the one whose key is being written; of a list, what is its tail. Else NULL */
    Py_ssize_t at;       /* the next child; for a dict, the position of PyDict_Next */
    Py_ssize_t size;     /* children; for a dict, pairs */
    Py_ssize_t done;     /* pairs of a dict that were begun */
    uint8_t kind, ends_in_nil, frozen, key_kinds, keys_checked;
} Frame;

enum { TEXT_KEYS = 1, BYTES_KEYS = 2 };
enum { FEW_FRAMES = 16, FEW_BYTES = 1024 };

typedef struct {
    State *state;
    const EncodeArguments *arguments;
    uint8_t *at, *end;
    PyObject *bytes; /* the buffer, once it is larger than few_bytes */
    Py_buffer hold;  /* of the target, so that nobody else changes its size */
    EncodeOutcome *outcome;
    Frame *frames;
    Py_ssize_t depth, frames_capacity;
    Frame few_frames[FEW_FRAMES];
    uint8_t few_bytes[FEW_BYTES];
} Encoder;

/* ---- the buffer ---- */

static uint8_t *buffer_begin(Encoder *e)
{
    if (e->arguments->target) return (uint8_t *)e->hold.buf + e->arguments->offset;
    return e->bytes ? (uint8_t *)PyBytes_AS_STRING(e->bytes) : e->few_bytes;
}

/* Fails where somebody else holds the target too. */
static int resize_target(Encoder *e, Py_ssize_t size)
{
    PyBuffer_Release(&e->hold);
    int status = PyByteArray_Resize(e->arguments->target, size);
    return PyObject_GetBuffer(e->arguments->target, &e->hold, PyBUF_WRITABLE) < 0 ? -1 : status;
}

static int grow_target(Encoder *e, size_t used, size_t capacity)
{
    int status = resize_target(e, e->arguments->offset + (Py_ssize_t)capacity);
    e->at = buffer_begin(e) + used;
    e->end = (uint8_t *)e->hold.buf + e->hold.len;
    return status;
}

static int grow_buffer(Encoder *e, size_t wanted)
{
    size_t used = (size_t)(e->at - buffer_begin(e)), capacity = (size_t)(e->end - buffer_begin(e));
    if (wanted > (size_t)PY_SSIZE_T_MAX / 4 - used) {
        PyErr_NoMemory();
        return -1;
    }
    capacity *= 2;
    if (capacity < used + wanted) capacity = used + wanted + 64;
    size_t expected = (size_t)e->state->last_size;
    if (!e->bytes && capacity < expected + expected / 8) capacity = expected + expected / 8;
    if (e->arguments->target) return grow_target(e, used, capacity);
    if (!e->bytes) {
        e->bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)capacity);
        if (!e->bytes) return -1;
        memcpy(PyBytes_AS_STRING(e->bytes), e->few_bytes, used);
    } else if (_PyBytes_Resize(&e->bytes, (Py_ssize_t)capacity) < 0) {
        e->at = e->end = e->few_bytes;
        return -1;
    }
    e->at = buffer_begin(e) + used;
    e->end = buffer_begin(e) + capacity;
    return 0;
}

/* Makes room for `size` bytes at e->at. */
static inline int reserve(Encoder *e, size_t size)
{
    return (size_t)(e->end - e->at) >= size ? 0 : grow_buffer(e, size);
}

static inline int put_bytes(Encoder *e, const void *bytes, size_t size)
{
    if (reserve(e, size) < 0) return -1;
    memcpy(e->at, bytes, size);
    e->at += size;
    return 0;
}

/* A tag and a size in four bytes, with room for `more` behind them. */
static inline int put_size(Encoder *e, uint8_t tag, size_t size, size_t more)
{
    if (size > UINT32_MAX || reserve(e, 5 + more) < 0) return -1;
    *e->at = tag;
    e->at = put_u32(e->at + 1, (uint32_t)size);
    return 0;
}

/* ---- frames ---- */

static int open_frame(Encoder *e, PyObject *container, int kind, Py_ssize_t size, int ends_in_nil)
{
    if (e->depth >= e->arguments->max_depth) return -1;
    if (e->depth == e->frames_capacity) {
        Frame *frames = e->frames == e->few_frames ? NULL : e->frames;
        frames = PyMem_Realloc(frames, 2 * (size_t)e->frames_capacity * sizeof *frames);
        if (!frames) {
            PyErr_NoMemory();
            return -1;
        }
        if (e->frames == e->few_frames) memcpy(frames, e->few_frames, sizeof e->few_frames);
        e->frames = frames;
        e->frames_capacity *= 2;
    }
    e->frames[e->depth++] = (Frame){
        .container = Py_NewRef(container), .size = size, .kind = (uint8_t)kind, .ends_in_nil = (uint8_t)ends_in_nil};
    return 0;
}

/* Whether keys that Python holds apart could be one for the BEAM, now that this one has come. */
static inline int is_mistakable(const State *state, Frame *frame, PyObject *key)
{
    PyTypeObject *type = Py_TYPE(key);
    if (type == &PyUnicode_Type) {
        frame->key_kinds |= TEXT_KEYS;
    } else if (type == &PyBytes_Type) {
        frame->key_kinds |= BYTES_KEYS;
    } else {
        return !(type == (PyTypeObject *)state->atom_type || type == &PyLong_Type || type == &PyFloat_Type ||
                 type == &PyBool_Type || key == Py_None);
    }
    return frame->key_kinds == (TEXT_KEYS | BYTES_KEYS);
}

/* What is still to be written of a dict, keys and values by turns. */
static PyObject *rest_of_dict(const State *state, Frame *frame)
{
    PyObject *rest = PyList_New(0), *key, *value;
    Py_ssize_t at = frame->at;
    int status = rest ? 0 : -1;
    if (status == 0 && frame->value) status = PyList_Append(rest, frame->value);
    while (status == 0 && PyDict_Next(frame->container, &at, &key, &value)) {
        int unchecked = is_mistakable(state, frame, key) && !frame->keys_checked; /* rare enough to begin anew */
        status = unchecked || PyList_Append(rest, key) < 0 || PyList_Append(rest, value) < 0 ? -1 : 0;
    }
    if (status < 0) Py_CLEAR(rest);
    return rest;
}

static int freeze_frame(const State *state, Frame *frame)
{
    frame->frozen = 1;
    if (frame->kind == SEQUENCE && PyTuple_CheckExact(frame->container)) return 0;
    int is_dict = frame->kind == DICT;
    PyObject *copy = is_dict ? rest_of_dict(state, frame) : PyList_GetSlice(frame->container, frame->at, frame->size);
    if (!copy) return -1;
    Py_ssize_t wanted = is_dict ? 2 * (frame->size - frame->done) + (frame->value != NULL) : frame->size - frame->at;
    Py_SETREF(frame->container, copy);
    Py_CLEAR(frame->value);
    frame->kind = SEQUENCE;
    frame->at = 0;
    frame->size = PyList_GET_SIZE(copy);
    return frame->size == wanted ? 0 : -1; /* else it was changed */
}

/* To be called before Python code is, however harmless it seems. */
static int freeze(Encoder *e)
{
    for (Py_ssize_t i = e->depth; i-- > 0 && !e->frames[i].frozen;) {
        if (freeze_frame(e->state, &e->frames[i]) < 0) return -1;
    }
    return 0;
}

/* ---- leaves ---- */

/* Python keeps the UTF-8 of a text in the str, once it was asked for: to send the text again is a copy then, at the price
   of the memory for as long as the str lives. That is taken for texts of up to so many characters; of a long one the
   bytes are made anew each time. */
enum { MAX_KEPT = 1000 };

static int put_long_text(Encoder *e, PyObject *text)
{
    size_t length = (size_t)PyUnicode_GET_LENGTH(text);
    size_t most = PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND ? 2 : PyUnicode_KIND(text) == PyUnicode_2BYTE_KIND ? 3 : 4;
    if (length > (size_t)PY_SSIZE_T_MAX / 8 || reserve(e, 5 + most * length) < 0) return -1;
    uint8_t *begin = e->at + 5, *stop = utf8_of_text(text, begin);
    if (!stop || (size_t)(stop - begin) > UINT32_MAX) return -1;
    *e->at = BINARY;
    put_u32(e->at + 1, (uint32_t)(stop - begin));
    e->at = stop;
    return 0;
}

static int put_text(Encoder *e, PyObject *text)
{
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) return -1;
#endif
    Py_ssize_t size = PyUnicode_GET_LENGTH(text);
    const char *bytes;
    if (PyUnicode_IS_ASCII(text)) {
        bytes = (const char *)PyUnicode_1BYTE_DATA(text);
    } else if (size <= MAX_KEPT) {
        bytes = PyUnicode_AsUTF8AndSize(text, &size);
        if (!bytes) return -1;
    } else {
        return put_long_text(e, text);
    }
    if (put_size(e, BINARY, (size_t)size, (size_t)size) < 0) return -1;
    memcpy(e->at, bytes, (size_t)size);
    e->at += size;
    return 0;
}

static int put_binary(Encoder *e, PyObject *bytes)
{
    size_t size = (size_t)PyBytes_GET_SIZE(bytes);
    if (put_size(e, BINARY, size, size) < 0) return -1;
    memcpy(e->at, PyBytes_AS_STRING(bytes), size);
    e->at += size;
    return 0;
}

/* The magnitude of an int, little-endian, in `size` bytes. */
static int copy_magnitude(PyObject *magnitude, uint8_t *out, size_t size)
{
#if PY_VERSION_HEX >= 0x030D0000
    const int flags = Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER;
    return PyLong_AsNativeBytes(magnitude, out, (Py_ssize_t)size, flags) < 0 ? -1 : 0;
#else
    return _PyLong_AsByteArray((PyLongObject *)magnitude, out, size, 1, 0);
#endif
}

static int put_big(Encoder *e, PyObject *number, int negative)
{
    size_t bits = (size_t)_PyLong_NumBits(number), size = bits / 8 + (bits % 8 != 0);
    if (size > MAX_BIG_BYTES || reserve(e, size + 6) < 0) return -1;
    if (size <= 255) {
        *e->at++ = SMALL_BIG;
        *e->at++ = (uint8_t)size;
    } else if (put_size(e, LARGE_BIG, size, size + 1) < 0) {
        return -1;
    }
    *e->at++ = (uint8_t)negative;
    PyObject *magnitude = negative ? PyNumber_Negative(number) : Py_NewRef(number);
    int status = magnitude ? copy_magnitude(magnitude, e->at, size) : -1;
    Py_XDECREF(magnitude);
    e->at += size;
    return status;
}

static int put_int(Encoder *e, PyObject *number)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow) return put_big(e, number, overflow < 0);
    if (reserve(e, 11) < 0) return -1;
    if (value >= 0 && value <= 255) {
        *e->at++ = SMALL_INTEGER;
        *e->at++ = (uint8_t)value;
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        *e->at = INTEGER;
        e->at = put_u32(e->at + 1, (uint32_t)value);
    } else {
        uint64_t sign = 0 - (uint64_t)(value < 0), magnitude = ((uint64_t)value ^ sign) - sign; /* no jump to guess */
        unsigned size = 8 - (unsigned)__builtin_clzll(magnitude) / 8;
        uint8_t *out = e->at;
        out[0] = SMALL_BIG;
        out[1] = (uint8_t)size;
        out[2] = value < 0;
        for (int i = 0; i < 8; i++) out[3 + i] = (uint8_t)(magnitude >> 8 * i); /* all eight: one instruction */
        e->at = out + 3 + size;
    }
    return 0;
}

static int put_float(Encoder *e, PyObject *number)
{
    double value = PyFloat_AS_DOUBLE(number);
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits >> 52 & 0x7FF) == 0x7FF || reserve(e, 9) < 0) return -1;
    *e->at = NEW_FLOAT;
    e->at = put_u64(e->at + 1, bits);
    return 0;
}

/* Whether the caller lets the atom be sent. */
static int may_be_sent(Encoder *e, PyObject *atom)
{
    PyObject *atoms = e->arguments->atoms, *more = e->arguments->more_atoms;
    if (!atoms) return 1;
    if (more && PySet_Contains(more, atom) == 1) return 1;
    if (PyAnySet_CheckExact(atoms)) return PySet_Contains(atoms, atom) == 1;
    if (freeze(e) < 0) return 0;
    return PySequence_Contains(atoms, atom) == 1;
}

static int put_atom(Encoder *e, PyObject *atom)
{
    PyObject *external = *(PyObject **)((char *)atom + e->state->external_offset);
    if (!external || !PyBytes_CheckExact(external)) return -1;
    Py_INCREF(atom); /* freeze() may let go of what holds it */
    int status = may_be_sent(e, atom)
                     ? put_bytes(e, PyBytes_AS_STRING(external), (size_t)PyBytes_GET_SIZE(external))
                     : -1;
    Py_DECREF(atom);
    return status;
}

/* ---- pids, ports and references, of which each frame of Erlang's distribution has some ---- */

static inline PyObject *slot_of(PyObject *value, Py_ssize_t offset) { return *(PyObject **)((char *)value + offset); }

static int put_unsigned(Encoder *e, PyObject *number)
{
    if (!number || !PyLong_CheckExact(number) || reserve(e, 4) < 0) return -1;
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    if (value > UINT32_MAX) return -1; /* or it is none, and an exception is set */
    e->at = put_u32(e->at, (uint32_t)value);
    return 0;
}

/* What begins with `head` and a node. Returns 1 where the node is `true`, `false` or `nil`. */
static int put_node(Encoder *e, const void *head, size_t size, PyObject *node)
{
    if (!node || !Py_IS_TYPE(node, (PyTypeObject *)e->state->atom_type)) return 1;
    return put_bytes(e, head, size) < 0 || put_atom(e, node) < 0 ? -1 : 0;
}

static int put_pid(Encoder *e, PyObject *pid)
{
    const Py_ssize_t *slots = e->state->pid_slots;
    const uint8_t head = NEW_PID;
    int status = put_node(e, &head, 1, slot_of(pid, slots[0]));
    for (int i = 1; status == 0 && i < 4; i++) status = put_unsigned(e, slot_of(pid, slots[i]));
    return status;
}

enum { OLD_PORT_BITS = 28 };

static int put_port(Encoder *e, PyObject *port)
{
    const Py_ssize_t *slots = e->state->port_slots;
    PyObject *id = slot_of(port, slots[1]);
    if (!id || !PyLong_CheckExact(id)) return 1;
    unsigned long long number = PyLong_AsUnsignedLongLong(id);
    if (number == (unsigned long long)-1 && PyErr_Occurred()) return -1;
    const int is_wide = number >> OLD_PORT_BITS != 0;
    const uint8_t head = is_wide ? V4_PORT : NEW_PORT;
    int status = put_node(e, &head, 1, slot_of(port, slots[0]));
    if (status) return status;
    if (reserve(e, 8) < 0) return -1;
    e->at = is_wide ? put_u64(e->at, number) : put_u32(e->at, (uint32_t)number);
    return put_unsigned(e, slot_of(port, slots[2]));
}

static int put_reference(Encoder *e, PyObject *reference)
{
    const Py_ssize_t *slots = e->state->reference_slots;
    PyObject *ids = slot_of(reference, slots[2]);
    if (!ids || !PyTuple_CheckExact(ids) || PyTuple_GET_SIZE(ids) > 0xFF) return 1;
    const uint8_t head[] = {NEWER_REFERENCE, 0, (uint8_t)PyTuple_GET_SIZE(ids)};
    int status = put_node(e, head, sizeof head, slot_of(reference, slots[0]));
    if (status == 0) status = put_unsigned(e, slot_of(reference, slots[1]));
    for (Py_ssize_t i = 0; status == 0 && i < PyTuple_GET_SIZE(ids); i++) {
        status = put_unsigned(e, PyTuple_GET_ITEM(ids, i));
    }
    return status;
}

/* Such a value; freeze() may let go of what holds it. */
static int put_held(Encoder *e, int (*put)(Encoder *, PyObject *), PyObject *value)
{
    Py_INCREF(value);
    int status = put(e, value);
    Py_DECREF(value);
    return status;
}

/* ---- containers ---- */

/* An int from 0 to 255, or -1. */
static inline int byte_of(PyObject *item)
{
    if (!PyLong_CheckExact(item)) return -1;
    int overflow;
    long value = PyLong_AsLongAndOverflow(item, &overflow);
    return !overflow && value >= 0 && value <= 255 ? (int)value : -1;
}

/* Writes a list of bytes as the BEAM does. Returns 0 where it is none. */
static int put_string(Encoder *e, PyObject *list, Py_ssize_t size)
{
    if (size > 0xFFFF || byte_of(PyList_GET_ITEM(list, 0)) < 0) return 0;
    if (reserve(e, (size_t)size + 3) < 0) return -1;
    uint8_t *out = e->at + 3;
    for (Py_ssize_t i = 0; i < size; i++) {
        int byte = byte_of(PyList_GET_ITEM(list, i));
        if (byte < 0) return 0;
        *out++ = (uint8_t)byte;
    }
    *e->at = STRING;
    put_u16(e->at + 1, (uint32_t)size);
    e->at = out;
    return 1;
}

static int put_list(Encoder *e, PyObject *list)
{
    Py_ssize_t size = PyList_GET_SIZE(list);
    if (!size) return put_bytes(e, "j", 1);
    int written = put_string(e, list, size);
    if (written) return written < 0 ? -1 : 0;
    if (put_size(e, LIST, (size_t)size, 0) < 0) return -1;
    return open_frame(e, list, SEQUENCE, size, 1);
}

static int put_tuple(Encoder *e, PyObject *tuple)
{
    Py_ssize_t size = PyTuple_GET_SIZE(tuple);
    if (size <= 255) {
        uint8_t header[] = {SMALL_TUPLE, (uint8_t)size};
        if (put_bytes(e, header, 2) < 0) return -1;
    } else if (put_size(e, LARGE_TUPLE, (size_t)size, 0) < 0) {
        return -1;
    }
    return size ? open_frame(e, tuple, SEQUENCE, size, 0) : 0;
}

static int put_improper_list(Encoder *e, PyObject *list)
{
    PyObject *items = slot_of(list, e->state->improper_list_slots[0]);
    PyObject *tail = slot_of(list, e->state->improper_list_slots[1]);
    if (!items || !PyTuple_CheckExact(items) || !PyTuple_GET_SIZE(items) || !tail) return 1;
    Py_ssize_t size = PyTuple_GET_SIZE(items);
    if (put_size(e, LIST, (size_t)size, 0) < 0 || open_frame(e, items, SEQUENCE, size, 0) < 0) return -1;
    e->frames[e->depth - 1].value = Py_NewRef(tail);
    return 0;
}

static int put_dict(Encoder *e, PyObject *dict)
{
    Py_ssize_t size = PyDict_GET_SIZE(dict);
    if (put_size(e, MAP, (size_t)size, 0) < 0) return -1;
    return size ? open_frame(e, dict, DICT, size, 0) : 0;
}

/* ---- what is rare: the tables of encoder.py know it ---- */

static int put_rare_leaf(Encoder *e, PyObject *writer, PyObject *value)
{
    PyObject *atoms = e->arguments->atoms ? e->arguments->atoms : Py_None;
    PyObject *all = e->arguments->more_atoms ? PyNumber_Or(atoms, e->arguments->more_atoms) : Py_NewRef(atoms);
    PyObject *bytes = all ? PyObject_CallFunctionObjArgs(writer, value, all, NULL) : NULL;
    Py_XDECREF(all);
    int status = bytes && PyBytes_CheckExact(bytes)
                     ? put_bytes(e, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes))
                     : -1;
    Py_XDECREF(bytes);
    return status;
}

/* Calls what opens a container of a rare kind: the bytes before its children, the children, the bytes behind them. */
static PyObject *opened_by_python(PyObject *opener, PyObject *value)
{
    PyObject *opened = PyObject_CallOneArg(opener, value);
    if (opened && PyTuple_CheckExact(opened) && PyTuple_GET_SIZE(opened) == 3 &&
        PyBytes_CheckExact(PyTuple_GET_ITEM(opened, 0)) && PyBytes_CheckExact(PyTuple_GET_ITEM(opened, 2)) &&
        (PyList_CheckExact(PyTuple_GET_ITEM(opened, 1)) || PyTuple_CheckExact(PyTuple_GET_ITEM(opened, 1)))) {
        return opened;
    }
    Py_XDECREF(opened);
    return NULL;
}

static int put_rare_container(Encoder *e, PyObject *opener, PyObject *value)
{
    PyObject *opened = opened_by_python(opener, value);
    if (!opened) return -1;
    PyObject *opening = PyTuple_GET_ITEM(opened, 0), *children = PyTuple_GET_ITEM(opened, 1);
    Py_ssize_t size = PySequence_Fast_GET_SIZE(children);
    int status = put_bytes(e, PyBytes_AS_STRING(opening), (size_t)PyBytes_GET_SIZE(opening));
    if (status == 0 && size) {
        status = open_frame(e, children, SEQUENCE, size, PyBytes_GET_SIZE(PyTuple_GET_ITEM(opened, 2)) != 0);
    }
    Py_DECREF(opened);
    return status;
}

/* Returns 1 where `kind` is in neither of the tables. */
static int put_by_tables(Encoder *e, PyObject *kind, PyObject *value)
{
    PyObject *found = PyDict_GetItemWithError(e->state->leaf_writers, kind);
    if (found) return put_rare_leaf(e, found, value);
    if (PyErr_Occurred()) return -1;
    found = PyDict_GetItemWithError(e->state->container_openers, kind);
    if (found) return put_rare_container(e, found, value);
    return PyErr_Occurred() ? -1 : 1;
}

static int put_common(Encoder *e, PyObject *value);

static int put_stand_in(Encoder *e, PyObject *value)
{
    PyObject *fallback = e->arguments->fallback ? e->arguments->fallback : Py_None, **done = &e->outcome->done;
    if (!*done && !(*done = PyList_New(0))) return -1;
    PyObject *found = PyObject_CallFunctionObjArgs(e->state->stand_in, *done, value, fallback, NULL);
    if (!found) {
        e->outcome->final = !PyErr_ExceptionMatches(e->state->refused); /* what a hook raises goes on */
        return -1;
    }
    int status = -1;
    if (PyTuple_CheckExact(found) && PyTuple_GET_SIZE(found) == 2) {
        PyObject *kind = PyTuple_GET_ITEM(found, 0), *term = PyTuple_GET_ITEM(found, 1);
        status = (PyObject *)Py_TYPE(term) == kind ? put_common(e, term) : 1;
        if (status > 0) status = put_by_tables(e, kind, term);
    }
    Py_DECREF(found);
    return status > 0 ? -1 : status;
}

static int put_rare(Encoder *e, PyObject *value)
{
    Py_INCREF(value); /* freeze() may let go of what holds it */
    int status = freeze(e);
    if (status == 0) status = put_by_tables(e, (PyObject *)Py_TYPE(value), value);
    if (status > 0) status = put_stand_in(e, value);
    Py_DECREF(value);
    return status;
}

/* ---- the loop ---- */

/* Returns 1 for a type that is none of the common ones. */
static inline int put_common(Encoder *e, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyUnicode_Type) return put_text(e, value);
    if (type == &PyLong_Type) return put_int(e, value);
    if (type == &PyFloat_Type) return put_float(e, value);
    if (type == (PyTypeObject *)e->state->atom_type) return put_atom(e, value);
    if (type == &PyDict_Type) return put_dict(e, value);
    if (type == &PyList_Type) return put_list(e, value);
    if (type == &PyTuple_Type) return put_tuple(e, value);
    if (value == Py_None) return put_bytes(e, "w\3nil", 5);
    if (value == Py_True) return put_bytes(e, "w\4true", 6);
    if (value == Py_False) return put_bytes(e, "w\5false", 7);
    if (type == &PyBytes_Type) return put_binary(e, value);
    if (type == (PyTypeObject *)e->state->pid_type) return put_held(e, put_pid, value);
    if (type == (PyTypeObject *)e->state->reference_type) return put_held(e, put_reference, value);
    if (type == (PyTypeObject *)e->state->improper_list_type) return put_improper_list(e, value);
    if (type == (PyTypeObject *)e->state->port_type) return put_held(e, put_port, value);
    return 1;
}

static inline int put_term(Encoder *e, PyObject *value)
{
    int status = put_common(e, value);
    return status > 0 ? put_rare(e, value) : status;
}

/* Lets encoder.py look at all keys of the dict; what is still to be written is in the list that it gives. */
static int check_keys(Encoder *e)
{
    PyObject *dict = Py_NewRef(e->frames[e->depth - 1].container);
    Py_ssize_t done = e->frames[e->depth - 1].done;
    e->frames[e->depth - 1].keys_checked = 1;
    PyObject *opener = PyDict_GetItemWithError(e->state->container_openers, (PyObject *)&PyDict_Type);
    PyObject *opened = opener && freeze(e) == 0 ? opened_by_python(opener, dict) : NULL;
    Py_DECREF(dict);
    if (!opened) return -1;
    PyObject *children = PyTuple_GET_ITEM(opened, 1);
    Frame *frame = &e->frames[e->depth - 1];
    Py_ssize_t size = PySequence_Fast_GET_SIZE(children);
    int status = size - 2 * done == frame->size - frame->at ? 0 : -1;
    if (status == 0) {
        Py_SETREF(frame->container, Py_NewRef(children));
        frame->size = size;
        frame->at = 2 * done;
    }
    Py_DECREF(opened);
    return status;
}

/* The two functions below write children until a container is opened, which is to be written first, or until the
   frame is another kind of frame. */

static int go_on_with_dict(Encoder *e)
{
    const Py_ssize_t depth = e->depth;
    PyObject *key, *value;
    while (e->depth == depth && e->frames[depth - 1].kind == DICT) {
        Frame *frame = &e->frames[depth - 1];
        if (frame->value) {
            value = frame->value;
            frame->value = NULL;
            int status = put_term(e, value);
            Py_DECREF(value);
            if (status < 0) return -1;
            continue;
        }
        Py_ssize_t at = frame->at;
        if (!PyDict_Next(frame->container, &at, &key, &value)) {
            if (frame->done != frame->size) return -1;
            e->depth--;
            Py_DECREF(frame->container);
            return 0;
        }
        if (is_mistakable(e->state, frame, key)) {
            if (check_keys(e) < 0) return -1;
            continue;
        }
        frame->at = at;
        frame->done++;
        if (Py_IS_TYPE(key, &PyUnicode_Type)) { /* the value can come at once: no Python code runs in between */
            if (put_text(e, key) < 0 || put_term(e, value) < 0) return -1;
        } else {
            frame->value = Py_NewRef(value);
            if (put_term(e, key) < 0) return -1;
        }
    }
    return 0;
}

static int go_on_with_sequence(Encoder *e)
{
    const Py_ssize_t depth = e->depth;
    while (e->depth == depth) {
        Frame *frame = &e->frames[depth - 1];
        if (frame->at == frame->size) {
            if (frame->value) {
                PyObject *tail = frame->value;
                frame->value = NULL;
                int status = put_term(e, tail);
                Py_DECREF(tail);
                if (status < 0) return -1;
                continue;
            }
            if (frame->ends_in_nil && put_bytes(e, "j", 1) < 0) return -1;
            e->depth--;
            Py_DECREF(frame->container);
            return 0;
        }
        if (PySequence_Fast_GET_SIZE(frame->container) != frame->size) return -1;
        if (put_term(e, PySequence_Fast_GET_ITEM(frame->container, frame->at++)) < 0) return -1;
    }
    return 0;
}

static int put_all(Encoder *e)
{
    const uint8_t version = VERSION_BYTE;
    if (put_bytes(e, &version, 1) < 0) return -1;
    if (put_term(e, e->arguments->term) < 0) return -1;
    while (e->depth) {
        int status = e->frames[e->depth - 1].kind == DICT ? go_on_with_dict(e) : go_on_with_sequence(e);
        if (status < 0) return -1;
    }
    return 0;
}

static PyObject *finished(Encoder *e)
{
    Py_ssize_t size = e->at - buffer_begin(e);
    if (!e->bytes) return PyBytes_FromStringAndSize((const char *)e->few_bytes, size);
    PyObject *bytes = e->bytes;
    e->bytes = NULL;
    e->state->last_size = size;
    if (PyBytes_GET_SIZE(bytes) - size > size / 4) {
        _PyBytes_Resize(&bytes, size); /* sets it to NULL where it fails */
    } else {
        /* What is too much stays. To give it back would make malloc ask the system for memory each time, and the page
           faults would take as long as the encoding. */
        Py_SET_SIZE(bytes, size);
        PyBytes_AS_STRING(bytes)[size] = 0;
    }
    return bytes;
}

/* The target never ends up shorter than it was, and longer only by what was written. */
static PyObject *finished_target(Encoder *e, Py_ssize_t before)
{
    Py_ssize_t end = e->arguments->offset + (e->at - buffer_begin(e));
    e->state->last_size = end - e->arguments->offset;
    return resize_target(e, end > before ? end : before) < 0 ? NULL : PyLong_FromSsize_t(end);
}

static void leave_target(Encoder *e, PyObject *result, Py_ssize_t before)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (!result && e->hold.len != before && resize_target(e, before) < 0) PyErr_Clear();
    PyErr_Restore(type, value, traceback);
    PyBuffer_Release(&e->hold);
}

PyObject *core_encode(State *state, const EncodeArguments *arguments, EncodeOutcome *outcome)
{
    Encoder e;
    e.state = state;
    e.arguments = arguments;
    e.at = e.few_bytes;
    e.end = e.few_bytes + FEW_BYTES;
    e.bytes = NULL;
    e.outcome = outcome;
    e.frames = e.few_frames;
    e.depth = 0;
    e.frames_capacity = FEW_FRAMES;

    Py_ssize_t before = 0;
    if (arguments->target) {
        if (PyObject_GetBuffer(arguments->target, &e.hold, PyBUF_WRITABLE) < 0) return NULL;
        before = e.hold.len;
        e.at = buffer_begin(&e);
        e.end = (uint8_t *)e.hold.buf + before;
    }
    PyObject *result = put_all(&e) < 0 ? NULL : arguments->target ? finished_target(&e, before) : finished(&e);
    if (arguments->target) leave_target(&e, result, before);
    while (e.depth) {
        Frame *frame = &e.frames[--e.depth];
        Py_DECREF(frame->container);
        Py_XDECREF(frame->value);
    }
    if (e.frames != e.few_frames) PyMem_Free(e.frames);
    Py_XDECREF(e.bytes);
    return result;
}
