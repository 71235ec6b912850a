/* Looks into a batch of rows without making Python objects of it, and without the interpreter lock.

   It is sure, or it says that it is not: then Python decodes the batch, which knows every term and explains what is
   wrong. It is sure of lists of maps of the common terms, nested so deep and no deeper, without structs. What it does
   not see are keys that come twice in a map; who reads the rows is told of those. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define MAX_DEPTH 64
#define MAX_TERMS 10000000 /* as in etf/limits.py */
#define SLOTS 1024         /* a power of two */
#define MAX_NAMES 512

enum {
    NEW_FLOAT = 70, SMALL_INTEGER = 97, INTEGER = 98, ATOM = 100, SMALL_TUPLE = 104, LARGE_TUPLE = 105, NIL = 106,
    STRING = 107, LIST = 108, BINARY = 109, SMALL_BIG = 110, LARGE_BIG = 111, SMALL_ATOM = 115, MAP = 116,
    ATOM_UTF8 = 118, SMALL_ATOM_UTF8 = 119, VERSION = 131,
};

typedef struct {
    uint64_t head; /* its first eight bytes */
    const uint8_t *at;
    uint32_t length;
} Name;

typedef struct {
    const uint8_t *at, *end;
    uint64_t terms;
    unsigned names;
    Name slots[SLOTS];
} Scan;

/* The bytes of a number that are in the first so many bytes of memory. */
static uint64_t MASKS[8];

static uint32_t u16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static uint32_t u32(const uint8_t *at) { return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | u16(at + 2); }

/* Notes the name of an atom; 0 for one that Python has to look at. */
static int note(Scan *s, const uint8_t *at, uint32_t length, int latin1)
{
    uint64_t head = 0; /* all of a short name */
    if (s->end - at >= 8) {
        memcpy(&head, at, 8);
        if (length < 8) head &= MASKS[length];
    } else {
        memcpy(&head, at, length);
    }
    for (size_t slot = ((head + length) * UINT64_C(0x9E3779B97F4A7C15)) >> 54;; slot = (slot + 1) % SLOTS) {
        Name *name = &s->slots[slot];
        if (name->at && name->head == head && name->length == length &&
            (length <= 8 || !memcmp(name->at, at, length)))
            return 1;
        if (name->at) continue;
        if (length > 255 || (length == 10 && !memcmp(at, "__struct__", 10))) return 0;
        for (uint32_t i = 0; latin1 && i < length; i++)
            if (at[i] > 127) return 0;
        *name = (Name){head, at, length};
        return ++s->names <= MAX_NAMES;
    }
}

/* What is fixed of a term behind its tag: a length, or all of it; FF for a tag to be unsure of. */
static const uint8_t FIXED[256] = {
    [0 ... 255] = 0xFF, [NIL] = 0, [SMALL_INTEGER] = 1, [SMALL_TUPLE] = 1, [SMALL_ATOM] = 1, [SMALL_ATOM_UTF8] = 1,
    [STRING] = 2, [ATOM] = 2, [ATOM_UTF8] = 2, [SMALL_BIG] = 2, [INTEGER] = 4, [BINARY] = 4, [LIST] = 4, [MAP] = 4,
    [LARGE_TUPLE] = 4, [LARGE_BIG] = 5, [NEW_FLOAT] = 8,
};

/* Goes over one term; 0 when not sure. */
static int skip(Scan *s)
{
    uint64_t left[MAX_DEPTH + 1] = {1}; /* terms to come, in each container that is open */
    int depth = 0;
    const uint8_t *at = s->at, *end = s->end;
    uint64_t terms = 0;
    while (at < end) {
        uint8_t tag = *at++;
        size_t room = (size_t)(end - at), size = FIXED[tag];
        uint64_t within = 0; /* terms in it */
        if (room < size) return 0;
        switch (tag) {
        case NIL: case SMALL_INTEGER: case INTEGER: break;
        case NEW_FLOAT:
            if ((u16(at) & 0x7FF0) == 0x7FF0) return 0; /* not finite */
            break;
        case BINARY: size += u32(at); break;
        case STRING: size += u16(at); break;
        case SMALL_BIG: size += at[0]; break;
        case LARGE_BIG: size += u32(at); break;
        case SMALL_TUPLE: within = at[0]; break;
        case LARGE_TUPLE: within = u32(at); break;
        case MAP: within = 2 * (uint64_t)u32(at); break;
        case LIST:
            within = (uint64_t)u32(at) + 1;
            if (within == 1) return 0; /* only a tail */
            break;
        case SMALL_ATOM: case SMALL_ATOM_UTF8:
            size += at[0];
            if (room < size || !note(s, at + 1, at[0], tag == SMALL_ATOM)) return 0;
            break;
        case ATOM: case ATOM_UTF8:
            size += u16(at);
            if (room < size || !note(s, at + 2, u16(at), tag == ATOM)) return 0;
            break;
        default: return 0;
        }
        if (room < size || room < within) return 0; /* a term takes a byte at least */
        at += size;
        terms++;
        left[depth]--;
        if (within) {
            if (depth == MAX_DEPTH) return 0;
            left[++depth] = within;
        }
        while (!left[depth]) {
            if (depth--) continue;
            s->at = at;
            s->terms += terms;
            return s->terms <= MAX_TERMS;
        }
    }
    return 0;
}

static int scan_rows(Scan *s, uint32_t *rows)
{
    if (s->end - s->at < 7 || s->at[0] != VERSION || s->at[1] != LIST) return 0;
    *rows = u32(s->at + 2);
    s->at += 6;
    for (uint32_t row = 0; row < *rows; row++)
        if (s->at == s->end || *s->at != MAP || !skip(s)) return 0;
    return *rows && s->end - s->at == 1 && *s->at == NIL;
}

PyDoc_STRVAR(scan_doc, "scan($module, batch, /)\n--\n\n"
                       "How many rows a batch has and the names of their atoms, or None for what must be decoded.");

static PyObject *scan(PyObject *module, PyObject *batch)
{
    (void)module;
    if (!PyBytes_Check(batch)) return PyErr_Format(PyExc_TypeError, "expected bytes, got %s", Py_TYPE(batch)->tp_name);
    Scan s = {.at = (const uint8_t *)PyBytes_AS_STRING(batch)};
    s.end = s.at + PyBytes_GET_SIZE(batch);
    uint32_t rows = 0;
    int sure;
    Py_BEGIN_ALLOW_THREADS
    sure = scan_rows(&s, &rows);
    Py_END_ALLOW_THREADS
    if (!sure) Py_RETURN_NONE;
    PyObject *names = PyList_New(0);
    for (size_t slot = 0; names && slot < SLOTS; slot++) {
        const Name *name = &s.slots[slot];
        if (!name->at) continue;
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)name->at, name->length);
        if (!bytes || PyList_Append(names, bytes) < 0) Py_CLEAR(names);
        Py_XDECREF(bytes);
    }
    return names ? Py_BuildValue("IN", (unsigned)rows, names) : NULL;
}

static PyMethodDef methods[] = {{"scan", scan, METH_O, scan_doc}, {NULL, NULL, 0, NULL}};

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
    .m_name = "erl_bridge.datasets._scan",
    .m_doc = "Looks into batches of rows.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__scan(void)
{
    for (int length = 1; length < 8; length++) memset(&MASKS[length], 0xFF, length);
    return PyModuleDef_Init(&definition);
}
