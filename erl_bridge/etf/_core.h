/* What the files of the compiled backend share. _core.c says how it works. */

#ifndef ERL_BRIDGE_CORE_H
#define ERL_BRIDGE_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum {
    VERSION_BYTE = 131,
    COMPRESSED = 80,
    NEW_FLOAT = 70,
    NEW_PID = 88,
    NEW_PORT = 89,
    NEWER_REFERENCE = 90,
    SMALL_INTEGER = 97,
    INTEGER = 98,
    ATOM = 100,
    SMALL_TUPLE = 104,
    LARGE_TUPLE = 105,
    NIL = 106,
    STRING = 107,
    LIST = 108,
    BINARY = 109,
    SMALL_BIG = 110,
    LARGE_BIG = 111,
    NEW_FUN = 112,
    SMALL_ATOM = 115,
    MAP = 116,
    ATOM_UTF8 = 118,
    SMALL_ATOM_UTF8 = 119,
    V4_PORT = 120,
};

/* Two caches of fixed size: texts that were keys of maps lately, and atoms. A slot is chosen by a hash of the bytes;
   what comes later replaces what was there. So rows of one shape share their keys, with hashes that are known. */
#define CACHE_BITS 9
#define CACHE_SLOTS (1 << CACHE_BITS)
#define MAX_CACHED 40 /* bytes of a text or an atom that is cached */

typedef struct {
    PyObject *atom;      /* an Atom, True, False or None; NULL in an empty slot */
    uint64_t generation; /* the last call of decode() that met it here */
    uint32_t size;
    uint8_t bytes[MAX_CACHED];
} AtomSlot;

/* The keys of a map that came before. When a second map has the same ones, a dict with them is made, which is then
   copied for each further map: that is quicker than to put in key after key. Chosen by the first key and the number. */
enum { SHAPES = 32, MIN_SHAPE = 2, MAX_SHAPE = 16 }; /* the number of shapes is a power of two */

typedef struct {
    Py_ssize_t count;
    PyObject *pattern; /* a dict of the keys, all with the value None; NULL as long as only one map had them */
    PyObject *keys[MAX_SHAPE]; /* held by the pattern; without one they are not looked at, but for where they are */
} Shape;

/* The ceilings of one erl_bridge.etf.Limits. */
typedef struct {
    Py_ssize_t size, depth, terms, atoms, collisions;
} Ceilings;

typedef struct State State;

/* What the fast paths call (_fast_path.h), through the capsule `_api` of the module: no argument of these is a Python call away. */
typedef struct {
    State *state;
    /* The term that data[begin:stop] is, with a version byte or without, whose atoms are added to the set. */
    PyObject *(*decode)(State *state, PyObject *data, Py_ssize_t begin, Py_ssize_t stop, int version, PyObject *limits,
                        PyObject *atoms);
    /* Writes the term into the bytearray from `offset` on and returns where it ends, or -1; where atoms may be sent that
       are in one of the sets. */
    Py_ssize_t (*encode)(State *state, PyObject *term, PyObject *atoms, PyObject *more_atoms, PyObject *target,
                         Py_ssize_t offset);
} CoreApi;
#define CORE_API "erl_bridge.etf._core._api"

/* The objects below come from the Python files of the codec; _core.c has the table that says from where. */
struct State {
    PyObject *py_encode, *py_decode, *py_decode_prefix; /* the pure-Python backend */
    PyObject *default_limits;
    PyObject *atom_type, *improper_list_type;
    PyObject *pid_type, *port_type, *reference_type, *export_type, *bit_string_type;
    PyObject *struct_key, *from_fields, *make_map;
    PyObject *source_of, *py_decoder_type, *inflate, *rare_leaves, *text_of_view, *known_atoms;
    PyObject *py_encode_again, *py_encode_into, *py_encode_into_again;
    PyObject *leaf_writers, *container_openers, *stand_in, *refused, *compress;
    PyObject *plain_keyword; /* ("plain",) */
    PyObject *auto_binaries; /* "auto" */
    PyObject *bytes[256];    /* the ints from 0 to 255 */

    PyObject *limits; /* the Limits that were used last, and what is in it */
    Ceilings ceilings, ceilings_of_default;

    Py_ssize_t external_offset; /* where an Atom has its attribute `external` */
    Py_ssize_t pid_slots[4], port_slots[3], reference_slots[3], improper_list_slots[2]; /* where these have theirs */
    Py_ssize_t last_size;       /* of what encode() wrote last, where it was more than a few bytes */
    uint64_t generation;        /* counts the calls of decode() */
    AtomSlot atoms[CACHE_SLOTS];
    PyObject *keys[CACHE_SLOTS]; /* ASCII str objects, or NULL */
    Shape shapes[SHAPES];
    CoreApi api;
};

/* Both return a new reference; or NULL, with an exception set or not: then the pure-Python backend is to be asked. */
typedef struct {
    PyObject *data, *limits, *atoms, *binaries; /* borrowed; atoms may be NULL */
    int texts, views, structs;
    Py_ssize_t offset;  /* where the term begins */
    Py_ssize_t stop;    /* where the bytes end that it may be in, for `bytes` only; 0: with the data */
    int version, whole; /* it begins with the version byte; nothing may follow it */
} DecodeArguments;
/* `end` is set to the offset of the end of the term. */
PyObject *core_decode(State *state, const DecodeArguments *arguments, Py_ssize_t *end);

typedef struct {
    PyObject *term, *atoms, *fallback; /* borrowed; atoms and fallback (`default`) may be NULL */
    PyObject *more_atoms;              /* a set, borrowed, of atoms that may be sent besides; or NULL */
    Py_ssize_t max_depth;
    PyObject *target; /* a bytearray to be written into from `offset` on, borrowed; or NULL */
    Py_ssize_t offset;
} EncodeArguments;
typedef struct {
    int final;      /* the exception is to be passed on as it is */
    PyObject *done; /* the list of noted_stand_in in encoder.py, for the pure-Python encoder; or NULL */
} EncodeOutcome;
/* The bytes; for a target, the offset of the end. */
PyObject *core_encode(State *state, const EncodeArguments *arguments, EncodeOutcome *outcome);

/* In _core_dict.c. A dict with the keys of `pattern`, whose values are all None, and the values of `count` pairs, which are
   in the order of these keys. It takes the references to the values; where it fails, it takes none. Whether the garbage
   collector has to know of the dict is left to the caller. */
PyObject *copy_with_values(PyObject *pattern, PyObject **pairs, Py_ssize_t count);

/* UTF-8, in _core_utf8.c. */
int is_ascii(const uint8_t *bytes, size_t size);
/* A str; or NULL without an exception where the bytes are not UTF-8. */
PyObject *text_of_utf8(const uint8_t *bytes, size_t size);
/* Writes the str as UTF-8, at most 4 bytes for a character (3 for kind 2, 2 for kind 1), and returns the place behind it, or NULL for a lone surrogate. */
uint8_t *utf8_of_text(PyObject *text, uint8_t *out);

static inline uint64_t load_word(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

static inline uint32_t load_half(const uint8_t *p)
{
    uint32_t half;
    memcpy(&half, p, sizeof half);
    return half;
}

static inline uint32_t get_u16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }

static inline uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t get_u64(const uint8_t *p) { return (uint64_t)get_u32(p) << 32 | get_u32(p + 4); }

static inline uint8_t *put_u16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
    return p + 2;
}

static inline uint8_t *put_u32(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 24);
    p[1] = (uint8_t)(value >> 16);
    p[2] = (uint8_t)(value >> 8);
    p[3] = (uint8_t)value;
    return p + 4;
}

static inline uint8_t *put_u64(uint8_t *p, uint64_t value)
{
    return put_u32(put_u32(p, (uint32_t)(value >> 32)), (uint32_t)value);
}

#define MAX_BIG_BYTES (((Py_ssize_t)1 << 22) - 8) /* as in tags.py */

#endif
