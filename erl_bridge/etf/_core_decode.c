/* From the external term format to Python values, as decoder.py does it, which says what is right.

   One loop reads term after term and puts each on a stack of values. A container is a frame: how many terms it still
   lacks, and where on the stack its terms begin; when it has them all they are taken off and what is made of them is
   put in their place. Nothing recurses. The terms of a long list do not take that way: they go into the list at once,
   which then has its final size from the beginning.

   Memory: a container is opened only where the terms that it and all around it still lack can be there (each has at
   least one byte), so the stack and the long lists have at most as many places as there are bytes.

   Every function here that fails returns NULL or -1, with an exception or without: the caller does not ask which, for
   then the pure-Python decoder reads the same bytes and says what is wrong. */

#include "_core.h"

enum { ROOT, A_LIST, A_TUPLE, A_MAP, LIST_WITHOUT_NIL, IMPROPER_LIST };

typedef struct {
    Py_ssize_t left; /* terms that it still lacks */
    Py_ssize_t base; /* where in the stack of values its terms begin */
    PyObject *list;  /* a long list, which its terms go into; else NULL */
    int kind;
    int in_key; /* it is a key of a map, or within one */
} Frame;

/* From here on a list is filled in place. On the stack and then in the list, 100,000 floats took two blocks of 800 kB,
   which malloc gave back to the system each time: 360 page faults in each call, a third of the time. A short list is
   made when all its terms are there, so that nobody comes upon one that is not finished. */
enum { LONG_LIST = 256 };

enum { FEW_VALUES = 64, FEW_FRAMES = 16, FEW_ATOMS = 48 };

typedef struct {
    State *state;
    const DecodeArguments *arguments;
    Ceilings ceilings;
    const uint8_t *data, *at, *end;
    int whole;        /* the data ends with the term */
    PyObject *source; /* the object that has the data: bytes, or a view that nobody can write through; borrowed */
    PyObject *view;   /* of the source, where binaries are views; else NULL */
    PyObject *helper; /* a _Decoder of decoder.py; NULL until it is needed */
    uint64_t generation;

    PyObject **values;
    Py_ssize_t top, capacity;
    Frame frame; /* the container that is being read */
    Frame *frames;
    Py_ssize_t depth, frames_capacity;
    Py_ssize_t outer;  /* terms that the containers around the one that is being read still lack */
    Py_ssize_t terms;  /* in all */

    int counts_atoms;   /* somebody wants them, or they could be too many */
    PyObject *atom_set; /* the different atoms, once there are more than a few */
    int atom_count;
    int collector_paused;
    PyObject *few_atoms[FEW_ATOMS];
    PyObject *few_values[FEW_VALUES];
    Frame few_frames[FEW_FRAMES];
} Decoder;

static inline Py_ssize_t bytes_left(const Decoder *d) { return d->end - d->at; }

/* ---- the two stacks ---- */

static int grow_values(Decoder *d, Py_ssize_t wanted)
{
    Py_ssize_t capacity = d->capacity + d->capacity / 2;
    if (capacity < wanted) capacity = wanted;
    PyObject **values = d->values == d->few_values ? NULL : d->values;
    values = PyMem_Realloc(values, (size_t)capacity * sizeof *values);
    if (!values) {
        PyErr_NoMemory();
        return -1;
    }
    if (d->values == d->few_values) memcpy(values, d->few_values, (size_t)d->top * sizeof *values);
    d->values = values;
    d->capacity = capacity;
    return 0;
}

static int grow_frames(Decoder *d)
{
    Py_ssize_t capacity = 2 * d->frames_capacity;
    Frame *frames = d->frames == d->few_frames ? NULL : d->frames;
    frames = PyMem_Realloc(frames, (size_t)capacity * sizeof *frames);
    if (!frames) {
        PyErr_NoMemory();
        return -1;
    }
    if (d->frames == d->few_frames) memcpy(frames, d->few_frames, (size_t)d->depth * sizeof *frames);
    d->frames = frames;
    d->frames_capacity = capacity;
    return 0;
}

/* Room for `count` values on top of the stack. */
static inline int reserve_values(Decoder *d, Py_ssize_t count)
{
    return d->top + count > d->capacity ? grow_values(d, d->top + count) : 0;
}

/* The next term of the container that is being read. There is room: it was made when the container was opened. */
static inline void push(Decoder *d, PyObject *value)
{
    if (d->frame.list) {
        PyList_SET_ITEM(d->frame.list, PyList_GET_SIZE(d->frame.list) - d->frame.left, value);
    } else {
        d->values[d->top++] = value;
    }
    d->frame.left--;
}

/* The one place where counts and the limits on them are checked: `count` terms are to come from d->at on. */
static inline int expect_terms(Decoder *d, Py_ssize_t count)
{
    if (count > bytes_left(d) - d->outer) return -1;
    if (count > d->ceilings.terms - d->terms) return -1;
    d->terms += count;
    return 0;
}

/* An empty list of that many places. The garbage collector, and who asks it for its objects, gets to see it when it is
   full: see take_long_list. */
static PyObject *new_long_list(Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    if (list) PyObject_GC_UnTrack(list);
    return list;
}

/* Whether the next term is a key of a map. */
static inline int is_key(const Decoder *d) { return d->frame.kind == A_MAP && !(d->frame.left & 1); }

static inline int is_in_key(const Decoder *d) { return d->frame.in_key || is_key(d); }

/* A container whose header is behind d->at; it has at least one term. */
static int open_container(Decoder *d, int kind, Py_ssize_t count)
{
    if (d->depth >= d->ceilings.depth) return -1;
    if (d->depth == d->frames_capacity && grow_frames(d) < 0) return -1;
    d->outer += d->frame.left - 1;
    if (expect_terms(d, count) < 0) return -1;
    PyObject *list = NULL;
    if (kind == A_LIST && count >= LONG_LIST) {
        list = new_long_list(count);
        if (!list) return -1;
    } else if (reserve_values(d, count) < 0) {
        return -1;
    }
    const int in_key = is_in_key(d);
    d->frames[d->depth++] = d->frame;
    d->frame = (Frame){count, d->top, list, kind, in_key};
    return 0;
}

/* A long list goes on where it should end, which no BEAM writes: it becomes one of those on the stack. */
static int move_to_stack(Decoder *d)
{
    PyObject *list = d->frame.list;
    Py_ssize_t count = PyList_GET_SIZE(list);
    if (reserve_values(d, count) < 0) return -1;
    for (Py_ssize_t i = 0; i < count; i++) d->values[d->top++] = Py_NewRef(PyList_GET_ITEM(list, i));
    d->frame.list = NULL;
    Py_DECREF(list);
    return 0;
}

/* ---- the cyclic garbage collector ---- */

/* Until Python 3.11 it runs inside of allocations, and walks in vain over what is being built: a quarter of the time
   for lists within lists. It is paused as long as no Python code can run, so nobody can see that it is; whoever is
   about to call Python code resumes it first, for the rest of the call. From 3.12 on it runs between instructions of
   Python code only. */
static inline void pause_collector(Decoder *d)
{
#if PY_VERSION_HEX < 0x030C0000
    d->collector_paused = PyGC_Disable();
#else
    d->collector_paused = 0;
#endif
}

static inline void resume_collector(Decoder *d)
{
    if (d->collector_paused) PyGC_Enable();
    d->collector_paused = 0;
}

/* ---- atoms ---- */

/* Of all bytes of a short name and of the first, the middle and the last eight of a longer one: a slot that two names
   claim makes nothing wrong. */
static inline uint32_t hash_of(const uint8_t *bytes, size_t size)
{
    const uint64_t factor = UINT64_C(0x9E3779B97F4A7C15);
    uint64_t hash = size;
    if (size >= 8) {
        hash ^= load_word(bytes) * factor;
        hash = (hash ^ hash >> 29 ^ load_word(bytes + size / 2 - 4)) * factor;
        hash ^= hash >> 29 ^ load_word(bytes + size - 8);
    } else if (size >= 4) {
        hash ^= (uint64_t)load_half(bytes) << 32 ^ (uint64_t)load_half(bytes + size - 4) << 3;
    } else if (size) {
        hash ^= (uint64_t)bytes[0] << 24 | (uint64_t)bytes[size / 2] << 16 | (uint64_t)bytes[size - 1] << 8;
    }
    hash *= factor;
    return (uint32_t)(hash >> (64 - CACHE_BITS)); /* only the highest bits depend on all that was multiplied */
}

/* memcmp() == 0 for names: a call of it took a twelfth of the time that rows of one shape take. */
static inline int are_same(const uint8_t *one, const uint8_t *other, size_t size)
{
    if (size >= 8) {
        for (size_t at = 0; at < size - 8; at += 8) {
            if (load_word(one + at) != load_word(other + at)) return 0;
        }
        return load_word(one + size - 8) == load_word(other + size - 8);
    }
    if (size >= 4) {
        return load_half(one) == load_half(other) && load_half(one + size - 4) == load_half(other + size - 4);
    }
    for (size_t at = 0; at < size; at++) {
        if (one[at] != other[at]) return 0;
    }
    return 1;
}

static int note_in_set(Decoder *d, PyObject *atom)
{
    if (!d->atom_set) {
        d->atom_set = PySet_New(NULL);
        if (!d->atom_set) return -1;
        for (int i = 0; i < d->atom_count; i++) {
            if (PySet_Add(d->atom_set, d->few_atoms[i]) < 0) return -1;
        }
    }
    if (PySet_Add(d->atom_set, atom) < 0) return -1;
    return PySet_GET_SIZE(d->atom_set) > d->ceilings.atoms ? -1 : 0;
}

/* Counts the different atoms, where that is needed. While they are few one may be counted twice (when a slot of the
   cache was used for another in between): past the limit the pure-Python decoder counts again. */
static int note_atom(Decoder *d, PyObject *atom)
{
    if (!d->counts_atoms) return 0;
    if (d->atom_count == FEW_ATOMS) return note_in_set(d, atom);
    d->few_atoms[d->atom_count++] = Py_NewRef(atom);
    return d->atom_count > d->ceilings.atoms ? -1 : 0;
}

static inline int is_in_slot(const AtomSlot *slot, const uint8_t *bytes, uint32_t size)
{
    return slot->atom && slot->size == size && are_same(slot->bytes, bytes, size);
}

static PyObject *find_unknown_atom(Decoder *d, const uint8_t *bytes, uint32_t size)
{
    resume_collector(d);
    PyObject *key = PyBytes_FromStringAndSize((const char *)bytes, size);
    if (!key) return NULL;
    PyObject *atom = PyObject_GetItem(d->state->known_atoms, key);
    Py_DECREF(key);
    if (!atom) return NULL;
    if (note_atom(d, atom) < 0) {
        Py_DECREF(atom);
        return NULL;
    }
    if (size > MAX_CACHED) return atom;
    AtomSlot *slot = &d->state->atoms[hash_of(bytes, size)];
    PyObject *old = slot->atom;
    slot->atom = Py_NewRef(atom);
    slot->generation = d->generation;
    slot->size = size;
    memcpy(slot->bytes, bytes, size);
    Py_XDECREF(old);
    return atom;
}

/* The atom with these bytes in UTF-8: a new reference. */
static inline PyObject *find_atom(Decoder *d, const uint8_t *bytes, uint32_t size)
{
    if (size > MAX_CACHED) return find_unknown_atom(d, bytes, size);
    AtomSlot *slot = &d->state->atoms[hash_of(bytes, size)];
    if (!is_in_slot(slot, bytes, size)) return find_unknown_atom(d, bytes, size);
    if (d->counts_atoms && slot->generation != d->generation) {
        slot->generation = d->generation;
        if (note_atom(d, slot->atom) < 0) return NULL;
    }
    return Py_NewRef(slot->atom);
}

/* ---- what is rare: Python reads it ---- */

static PyObject *helper(Decoder *d)
{
    if (!d->helper) {
        d->helper = PyObject_CallFunction(d->state->py_decoder_type, "OOOO", d->source, d->arguments->limits,
                                          d->arguments->binaries, d->arguments->structs ? Py_True : Py_False);
    }
    return d->helper;
}

/* The atoms that the helper met: pids have nodes. */
static int take_atoms(Decoder *d)
{
    PyObject *met = PyObject_GetAttrString(d->helper, "atoms");
    if (!met) return -1;
    int status = 0;
    while (status == 0 && PySet_Check(met) && PySet_GET_SIZE(met)) {
        PyObject *atom = PySet_Pop(met);
        status = atom ? note_atom(d, atom) : -1;
        Py_XDECREF(atom);
    }
    Py_DECREF(met);
    return status;
}

/* A leaf that decoder.py reads, by its table of readers. */
static PyObject *read_rare(Decoder *d)
{
    resume_collector(d);
    if (!helper(d)) return NULL;
    PyObject *reader = PyList_GetItem(d->state->rare_leaves, *d->at);
    if (!reader) return NULL;
    PyObject *read = PyObject_CallFunction(reader, "On", d->helper, (Py_ssize_t)(d->at - d->data));
    if (!read) return NULL;
    PyObject *term = NULL;
    if (PyTuple_CheckExact(read) && PyTuple_GET_SIZE(read) == 2) {
        Py_ssize_t stop = PyLong_AsSsize_t(PyTuple_GET_ITEM(read, 1));
        if (stop > d->at - d->data && stop <= d->end - d->data && take_atoms(d) == 0) {
            term = Py_NewRef(PyTuple_GET_ITEM(read, 0));
            d->at = d->data + stop;
        }
    }
    Py_DECREF(read);
    if (term && PyMemoryView_Check(term) && is_in_key(d)) {
        Py_SETREF(term, PyObject_CallOneArg(d->state->text_of_view, term));
    }
    return term;
}

/* ---- leaves ---- */

static inline const uint8_t *ascii_of(PyObject *text) { return (const uint8_t *)((PyASCIIObject *)text + 1); }

/* A text that is a key of a map. Short ones are shared. */
static PyObject *read_key(Decoder *d, const uint8_t *bytes, size_t size)
{
    if (size > MAX_CACHED) return text_of_utf8(bytes, size);
    PyObject **slot = &d->state->keys[hash_of(bytes, size)];
    if (*slot && (size_t)PyUnicode_GET_LENGTH(*slot) == size && are_same(ascii_of(*slot), bytes, size)) {
        return Py_NewRef(*slot);
    }
    PyObject *text = text_of_utf8(bytes, size);
    if (text && PyUnicode_IS_COMPACT_ASCII(text)) {
        PyObject *old = *slot;
        *slot = Py_NewRef(text);
        Py_XDECREF(old);
    }
    return text;
}

static PyObject *slice_of_view(Decoder *d, Py_ssize_t start, Py_ssize_t size)
{
    PyObject *from = PyLong_FromSsize_t(start), *to = PyLong_FromSsize_t(start + size);
    PyObject *slice = from && to ? PySlice_New(from, to, NULL) : NULL;
    Py_XDECREF(from);
    Py_XDECREF(to);
    PyObject *view = slice ? PyObject_GetItem(d->view, slice) : NULL;
    Py_XDECREF(slice);
    return view;
}

static inline PyObject *read_binary(Decoder *d)
{
    if (bytes_left(d) < 5) return NULL;
    Py_ssize_t size = get_u32(d->at + 1);
    if (size > bytes_left(d) - 5) return NULL;
    const uint8_t *bytes = d->at + 5;
    d->at = bytes + size;
    if (d->arguments->texts || (d->view && is_in_key(d))) {
        PyObject *text = is_key(d) ? read_key(d, bytes, (size_t)size) : text_of_utf8(bytes, (size_t)size);
        if (text || PyErr_Occurred()) return text;
    } else if (d->view) {
        return slice_of_view(d, bytes - d->data, size);
    }
    return PyBytes_FromStringAndSize((const char *)bytes, size);
}

static inline PyObject *read_small_integer(Decoder *d)
{
    if (bytes_left(d) < 2) return NULL;
    d->at += 2;
    return Py_NewRef(d->state->bytes[d->at[-1]]);
}

static inline PyObject *read_integer(Decoder *d)
{
    if (bytes_left(d) < 5) return NULL;
    d->at += 5;
    return PyLong_FromLong((int32_t)get_u32(d->at - 4));
}

static inline PyObject *read_float(Decoder *d)
{
    if (bytes_left(d) < 9) return NULL;
    uint64_t bits = get_u64(d->at + 1);
    if ((bits >> 52 & 0x7FF) == 0x7FF) return NULL; /* infinity or NaN */
    double number;
    memcpy(&number, &bits, sizeof number);
    d->at += 9;
    return PyFloat_FromDouble(number);
}

static PyObject *read_big(Decoder *d, Py_ssize_t header)
{
    if (bytes_left(d) < header + 1) return NULL;
    Py_ssize_t size = header == 2 ? d->at[1] : (Py_ssize_t)get_u32(d->at + 1);
    if (size > MAX_BIG_BYTES || size > bytes_left(d) - header - 1) return NULL;
    int negative = d->at[header] != 0;
    const uint8_t *magnitude = d->at + header + 1;
    d->at = magnitude + size;
    if (size < 8) {
        long long number = 0;
        for (Py_ssize_t i = size; i-- > 0;) number = number << 8 | magnitude[i];
        return PyLong_FromLongLong(negative ? -number : number);
    }
    PyObject *number = _PyLong_FromByteArray(magnitude, (size_t)size, 1, 0);
    if (number && negative) {
        PyObject *positive = number;
        number = PyNumber_Negative(positive);
        Py_DECREF(positive);
    }
    return number;
}

static inline PyObject *read_atom(Decoder *d, Py_ssize_t header)
{
    if (bytes_left(d) < header) return NULL;
    uint32_t size = header == 2 ? d->at[1] : get_u16(d->at + 1);
    if (size > bytes_left(d) - header) return NULL;
    const uint8_t *bytes = d->at + header;
    int latin_1 = *d->at == ATOM || *d->at == SMALL_ATOM;
    if (latin_1 && !is_ascii(bytes, size)) return read_rare(d);
    d->at = bytes + size;
    return find_atom(d, bytes, size);
}

/* An object of one of the classes of terms.py, whose fields are known to be good; takes the references to them. */
static PyObject *make_value(PyObject *type, const Py_ssize_t *slots, PyObject **fields, int count)
{
    PyObject *value = NULL;
    int whole = 1;
    for (int i = 0; i < count; i++) whole &= fields[i] != NULL;
    if (whole) value = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    for (int i = 0; i < count; i++) {
        if (value) {
            *(PyObject **)((char *)value + slots[i]) = fields[i];
        } else {
            Py_XDECREF(fields[i]);
        }
    }
    return value;
}

/* The node of a pid, a port or a reference, whose atom, with one byte for its size, is at `at`, with `after` bytes behind it. */
static PyObject *read_node(Decoder *d, const uint8_t **at, Py_ssize_t after)
{
    if (d->end - *at < 2 || d->end - *at - 2 < (*at)[1] + after) return NULL;
    const uint8_t *bytes = *at + 2;
    uint32_t size = (*at)[1];
    *at = bytes + size;
    return find_atom(d, bytes, size);
}

static inline PyObject *unsigned_at(const uint8_t *at) { return PyLong_FromUnsignedLong(get_u32(at)); }

static PyObject *read_pid(Decoder *d)
{
    const uint8_t *at = d->at + 1;
    if (bytes_left(d) < 2 || *at != SMALL_ATOM_UTF8) return read_rare(d);
    PyObject *node = read_node(d, &at, 12);
    if (!node) return NULL;
    PyObject *fields[] = {node, unsigned_at(at), unsigned_at(at + 4), unsigned_at(at + 8)};
    d->at = at + 12;
    return make_value(d->state->pid_type, d->state->pid_slots, fields, 4);
}

static PyObject *read_port(Decoder *d)
{
    const uint8_t *at = d->at + 1;
    if (bytes_left(d) < 2 || *at != SMALL_ATOM_UTF8) return read_rare(d);
    const Py_ssize_t width = *d->at == V4_PORT ? 8 : 4;
    PyObject *node = read_node(d, &at, width + 4);
    if (!node) return NULL;
    PyObject *id = width == 8 ? PyLong_FromUnsignedLongLong(get_u64(at)) : unsigned_at(at);
    PyObject *fields[] = {node, id, unsigned_at(at + width)};
    d->at = at + width + 4;
    return make_value(d->state->port_type, d->state->port_slots, fields, 3);
}

enum { MAX_WORDS = 5 };

static PyObject *read_reference(Decoder *d)
{
    const uint8_t *at = d->at + 3;
    if (bytes_left(d) < 4 || *at != SMALL_ATOM_UTF8) return read_rare(d);
    Py_ssize_t words = (Py_ssize_t)get_u16(d->at + 1);
    if (words < 1 || words > MAX_WORDS) return NULL;
    PyObject *node = read_node(d, &at, 4 + 4 * words);
    if (!node) return NULL;
    PyObject *ids = PyTuple_New(words);
    for (Py_ssize_t i = 0; ids && i < words; i++) {
        PyObject *word = unsigned_at(at + 4 + 4 * i);
        if (!word) {
            Py_CLEAR(ids);
        } else {
            PyTuple_SET_ITEM(ids, i, word);
        }
    }
    PyObject *fields[] = {node, unsigned_at(at), ids};
    d->at = at + 4 + 4 * words;
    return make_value(d->state->reference_type, d->state->reference_slots, fields, 3);
}

/* The size of a STRING_EXT; d->at is at its bytes then. */
static Py_ssize_t string_size(Decoder *d)
{
    if (bytes_left(d) < 3) return -1;
    Py_ssize_t size = get_u16(d->at + 1);
    if (size > bytes_left(d) - 3 || size > d->ceilings.terms - d->terms) return -1;
    d->terms += size;
    d->at += 3;
    return size;
}

static PyObject *read_string(Decoder *d)
{
    Py_ssize_t size = string_size(d);
    PyObject *list = size < 0 ? NULL : PyList_New(size);
    if (!list) return NULL;
    for (Py_ssize_t i = 0; i < size; i++) PyList_SET_ITEM(list, i, Py_NewRef(d->state->bytes[d->at[i]]));
    d->at += size;
    return list;
}

/* One at the end of a list: it continues it. */
static int read_string_in_tail(Decoder *d)
{
    Py_ssize_t size = string_size(d);
    if (size < 0) return -1;
    if (reserve_values(d, size) < 0) return -1;
    for (Py_ssize_t i = 0; i < size; i++) d->values[d->top++] = Py_NewRef(d->state->bytes[d->at[i]]);
    d->at += size;
    return 0;
}

/* ---- containers, when all their terms are read ---- */

static PyObject *make_list(Decoder *d, Py_ssize_t base)
{
    Py_ssize_t count = d->top - base;
    PyObject *list = PyList_New(count);
    if (!list) return NULL;
    if (count) memcpy(((PyListObject *)list)->ob_item, d->values + base, (size_t)count * sizeof *d->values);
    d->top = base;
    return list;
}

static PyObject *make_tuple(Decoder *d, Py_ssize_t base)
{
    Py_ssize_t count = d->top - base;
    PyObject *tuple = PyTuple_New(count);
    if (!tuple) return NULL;
    memcpy(((PyTupleObject *)tuple)->ob_item, d->values + base, (size_t)count * sizeof *d->values);
    d->top = base;
    return tuple;
}

static PyObject *make_improper_list(Decoder *d, Py_ssize_t base)
{
    PyObject *tail = d->values[--d->top]; /* no list: read_tail would have gone on with it */
    PyObject *fields[] = {make_tuple(d, base), tail};
    return make_value(d->state->improper_list_type, d->state->improper_list_slots, fields, 2);
}

/* What a key is to a dict: of the first two kinds are no more than a few with one hash, so collisions need not be
   counted; those of the third can be hashed, and what Python holds apart is apart for the BEAM; others are ODD. */
enum { SALTED, SMALL_NUMBER, SIMPLE, ODD };
enum { FEW_OF_ONE_HASH = 8 };

static int kind_of_simple(State *state, PyObject *key)
{
    PyTypeObject *type = Py_TYPE(key);
    if (type == &PyUnicode_Type || type == &PyBytes_Type || type == (PyTypeObject *)state->atom_type) return SALTED;
    if (type == &PyLong_Type) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(key, &overflow);
        return !overflow && number < INT64_C(1) << 60 && number > -(INT64_C(1) << 60) ? SMALL_NUMBER : SIMPLE;
    }
    if (key == Py_None || type == &PyBool_Type) return SMALL_NUMBER;
    if (type == &PyFloat_Type || (PyObject *)type == state->bit_string_type || (PyObject *)type == state->pid_type ||
        (PyObject *)type == state->port_type || (PyObject *)type == state->reference_type ||
        (PyObject *)type == state->export_type) {
        return SIMPLE;
    }
    return ODD;
}

static inline int kind_of_key(State *state, PyObject *key)
{
    if (Py_IS_TYPE(key, &PyUnicode_Type) || Py_IS_TYPE(key, (PyTypeObject *)state->atom_type)) return SALTED;
    if (!PyTuple_CheckExact(key)) return kind_of_simple(state, key);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); i++) {
        if (kind_of_simple(state, PyTuple_GET_ITEM(key, i)) == ODD) return ODD;
    }
    return SIMPLE;
}

/* Whether a dict with this value can be left to itself by the garbage collector: the value holds nothing. */
static inline int holds_nothing(const State *state, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    return !PyType_HasFeature(type, Py_TPFLAGS_HAVE_GC) || type == (PyTypeObject *)state->atom_type;
}

static PyObject *make_careful_map(Decoder *d, Py_ssize_t base, int plain)
{
    resume_collector(d);
    PyObject *terms = make_list(d, base);
    if (!terms) return NULL;
    PyObject *most = PyLong_FromSsize_t(d->ceilings.collisions), *made = NULL;
    if (most) {
        PyObject *arguments[] = {terms, most, plain ? Py_True : Py_False};
        made = PyObject_Vectorcall(d->state->make_map, arguments, 2, d->state->plain_keyword);
    }
    Py_XDECREF(most);
    Py_DECREF(terms);
    return made;
}

static PyObject *new_dict(Py_ssize_t count)
{
#if PY_VERSION_HEX < 0x030D0000
    if (count > 5) return _PyDict_NewPresized(count);
#else
    (void)count;
#endif
    return PyDict_New();
}

/* A dict of what is on the stack from `base` on, which is left there; keys of the kind ODD are not among it. */
static PyObject *fill_dict(Decoder *d, Py_ssize_t base)
{
    PyObject *dict = new_dict((d->top - base) / 2);
    if (!dict) return NULL;
    PyObject **end = d->values + d->top;
    for (PyObject **pair = d->values + base; pair < end; pair += 2) {
        if (PyDict_SetItem(dict, pair[0], pair[1]) < 0) {
            Py_DECREF(dict);
            return NULL;
        }
    }
    return dict;
}

/* Takes the terms of a map off the stack that are held by a dict now. */
static void drop(Decoder *d, Py_ssize_t base)
{
    while (d->top > base) Py_DECREF(d->values[--d->top]);
}

/* A dict that can hold no cycle is left to itself: an Atom is an object that could hold others, but it holds none. What
   is put into the dict later makes Python track it, until 3.13. */
static void track(PyObject *dict, int light)
{
#if PY_VERSION_HEX < 0x030D0000
    if (light) PyObject_GC_UnTrack(dict);
#endif
    if ((!light || PY_VERSION_HEX >= 0x030E0000) && !PyObject_GC_IsTracked(dict)) PyObject_GC_Track(dict);
}

static Shape *shape_of(Decoder *d, Py_ssize_t base, Py_ssize_t count)
{
    if (count < MIN_SHAPE || count > MAX_SHAPE) return NULL;
    uintptr_t first = (uintptr_t)d->values[base] >> 4;
    return &d->state->shapes[(first ^ first >> 5 ^ (uintptr_t)count) & (SHAPES - 1)];
}

static int has_shape(Decoder *d, Py_ssize_t base, Py_ssize_t count, const Shape *shape)
{
    if (shape->count != count) return 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (d->values[base + 2 * i] != shape->keys[i]) return 0;
    }
    return 1;
}

/* Takes the reference to the pattern, which may be NULL. */
static void note_shape(Decoder *d, Py_ssize_t base, Py_ssize_t count, PyObject *pattern, Shape *shape)
{
    PyObject *old = shape->pattern;
    if (old) resume_collector(d); /* with it goes, perhaps, an atom that Python code waits for */
    shape->count = count;
    shape->pattern = pattern;
    for (Py_ssize_t i = 0; i < count; i++) shape->keys[i] = d->values[base + 2 * i];
    Py_XDECREF(old);
}

/* Whether a pattern may keep the key when the call is over: all of them together keep little, whatever was sent. Longer
   keys are no cached ones, but may lie where those of the map before lay by chance. */
static int may_be_kept(PyObject *key)
{
    if (PyUnicode_CheckExact(key)) return PyUnicode_GET_LENGTH(key) <= MAX_CACHED;
    return !PyBytes_CheckExact(key) || PyBytes_GET_SIZE(key) <= MAX_CACHED;
}

/* A map with these keys comes for the second time. */
static int make_pattern(Decoder *d, Py_ssize_t base, PyObject *dict, Shape *shape)
{
    Py_ssize_t count = PyDict_GET_SIZE(dict);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!may_be_kept(d->values[base + 2 * i])) return 0;
    }
    PyObject *pattern = PyDict_Copy(dict);
    for (Py_ssize_t i = 0; pattern && i < count; i++) {
        if (PyDict_SetItem(pattern, d->values[base + 2 * i], Py_None) < 0) Py_CLEAR(pattern);
    }
    if (!pattern) return -1;
    PyObject_GC_UnTrack(pattern); /* nobody else is to come upon it */
    note_shape(d, base, count, pattern, shape);
    return 0;
}

static PyObject *copy_pattern(Decoder *d, Py_ssize_t base, const Shape *shape)
{
    PyObject *pattern = Py_NewRef(shape->pattern); /* its place may be taken while memory is asked for */
    PyObject *dict = copy_with_values(pattern, d->values + base, (d->top - base) / 2);
    if (dict) {
        int light = 1;
        for (PyObject **pair = d->values + base, **end = d->values + d->top; pair < end; pair += 2) {
            Py_DECREF(pair[0]);
            light &= holds_nothing(d->state, pair[1]);
        }
        d->top = base;
        track(dict, light);
    }
    Py_DECREF(pattern);
    return dict;
}

/* A dict where no key of the map can be lost in one, else what maps.py makes of it. */
static PyObject *make_new_map(Decoder *d, Py_ssize_t base, Shape *shape, int *has_struct)
{
    State *state = d->state;
    Py_ssize_t count = (d->top - base) / 2;
    int worst = SALTED, light = 1;
    for (Py_ssize_t i = base; i < d->top; i += 2) {
        PyObject *key = d->values[i];
        int kind = kind_of_key(state, key);
        if (kind > worst) worst = kind;
        if (key == state->struct_key) *has_struct = 1;
        light = light && kind < SIMPLE && holds_nothing(state, d->values[i + 1]);
    }
    int few = worst == SALTED || count <= d->ceilings.collisions ||
              (worst == SMALL_NUMBER && d->ceilings.collisions >= FEW_OF_ONE_HASH);
    if (worst == ODD || !few) return make_careful_map(d, base, worst != ODD);
    if (worst == SIMPLE) resume_collector(d); /* a pid is hashed by Python code */
    PyObject *made = fill_dict(d, base);
    if (!made) return NULL;
    if (PyDict_GET_SIZE(made) != count) { /* Python holds two keys equal; the BEAM may hold them apart */
        Py_DECREF(made);
        return make_careful_map(d, base, 1);
    }
    if (shape && worst == SALTED && !*has_struct) {
        if (!has_shape(d, base, count, shape)) {
            note_shape(d, base, count, NULL, shape);
        } else if (make_pattern(d, base, made, shape) < 0) {
            Py_DECREF(made);
            return NULL;
        }
    }
    drop(d, base);
    if (light) track(made, 1);
    return made;
}

static PyObject *make_map(Decoder *d, Py_ssize_t base)
{
    Py_ssize_t count = (d->top - base) / 2;
    Shape *shape = shape_of(d, base, count);
    if (shape && shape->pattern && has_shape(d, base, count, shape)) return copy_pattern(d, base, shape);
    int has_struct = 0;
    PyObject *made = make_new_map(d, base, shape, &has_struct);
    if (!made || !has_struct || !d->arguments->structs || !PyDict_CheckExact(made)) return made;
    resume_collector(d);
    PyObject *value = PyObject_CallOneArg(d->state->from_fields, made);
    Py_DECREF(made);
    return value;
}

/* ---- the loop ---- */

/* A list has all its terms; what follows them? NIL_EXT, or more of the list. Returns 1 where terms are to be read
   first. */
static int read_tail(Decoder *d)
{
    if (!bytes_left(d) || (d->frame.list && *d->at != NIL && move_to_stack(d) < 0)) return -1;
    switch (*d->at) {
    case NIL: d->at++; return 0;
    case LIST: {
        if (bytes_left(d) < 5) return -1;
        Py_ssize_t count = get_u32(d->at + 1);
        d->at += 5;
        d->frame.left = count;
        return expect_terms(d, count) < 0 || reserve_values(d, count) < 0 ? -1 : 1;
    }
    case STRING: d->frame.kind = LIST_WITHOUT_NIL; return read_string_in_tail(d);
    default:
        d->frame.kind = IMPROPER_LIST;
        d->frame.left = 1;
        return expect_terms(d, 1) < 0 || reserve_values(d, 1) < 0 ? -1 : 1;
    }
}

static PyObject *take_long_list(Decoder *d)
{
    PyObject *list = d->frame.list;
    d->frame.list = NULL;
    PyObject_GC_Track(list);
    return list;
}

static PyObject *close_container(Decoder *d)
{
    Py_ssize_t base = d->frame.base;
    switch (d->frame.kind) {
    case A_TUPLE: return make_tuple(d, base);
    case A_MAP: return make_map(d, base);
    case IMPROPER_LIST: return make_improper_list(d, base);
    default: return d->frame.list ? take_long_list(d) : make_list(d, base);
    }
}

/* Reads the header of a container. Returns 1 where it is open now; 0 where *term is the empty one, or NULL for a list
   of no terms, which is its tail. */
static int read_container(Decoder *d, PyObject **term)
{
    int tag = *d->at, kind = tag == LIST ? A_LIST : tag == MAP ? A_MAP : A_TUPLE;
    Py_ssize_t header = tag == SMALL_TUPLE ? 2 : 5;
    if (bytes_left(d) < header) return -1;
    Py_ssize_t count = tag == SMALL_TUPLE ? d->at[1] : (Py_ssize_t)get_u32(d->at + 1);
    if (tag == MAP) count *= 2;
    d->at += header;
    if (count) return open_container(d, kind, count) < 0 ? -1 : 1;
    if (kind == A_LIST) return 0;
    *term = kind == A_MAP ? PyDict_New() : PyTuple_New(0);
    return *term ? 0 : -1;
}

/* Reads a leaf, or the header of a container. Returns 1 where a container is open now, 0 where *term is what was read, or
   NULL as for read_container. */
static inline int read_one(Decoder *d, PyObject **term)
{
    switch (*d->at) {
    case SMALL_TUPLE:
    case LARGE_TUPLE:
    case LIST:
    case MAP: return read_container(d, term);
    case BINARY: *term = read_binary(d); break;
    case SMALL_INTEGER: *term = read_small_integer(d); break;
    case INTEGER: *term = read_integer(d); break;
    case NEW_FLOAT: *term = read_float(d); break;
    case SMALL_ATOM_UTF8:
    case SMALL_ATOM: *term = read_atom(d, 2); break;
    case ATOM_UTF8:
    case ATOM: *term = read_atom(d, 3); break;
    case NIL:
        d->at++;
        *term = PyList_New(0);
        break;
    case STRING: *term = read_string(d); break;
    case SMALL_BIG: *term = read_big(d, 2); break;
    case LARGE_BIG: *term = read_big(d, 5); break;
    case NEW_PID: *term = read_pid(d); break;
    case NEW_PORT:
    case V4_PORT: *term = read_port(d); break;
    case NEWER_REFERENCE: *term = read_reference(d); break;
    case NEW_FUN: break; /* decoder.py reads the whole term that holds a fun */
    default: *term = read_rare(d);
    }
    return *term ? 0 : -1;
}

static int read_terms(Decoder *d)
{
    for (;;) {
        while (d->frame.left) {
            if (d->at >= d->end) return -1;
            PyObject *term = NULL;
            if (read_one(d, &term) < 0) return -1;
            if (term) push(d, term);
        }
        if (d->frame.kind == ROOT) return d->at == d->end || !d->whole ? 0 : -1;
        if (d->frame.kind == A_LIST) {
            int more = read_tail(d);
            if (more < 0) return -1;
            if (more) continue;
        }
        PyObject *made = close_container(d);
        if (!made) return -1;
        d->frame = d->frames[--d->depth];
        d->outer -= d->frame.left - 1;
        push(d, made);
    }
}

/* ---- beginning and end ---- */

/* Gives the atoms of the term to the caller's set. */
static int give_atoms(Decoder *d)
{
    for (int i = 0; !d->atom_set && i < d->atom_count; i++) {
        PyObject *atom = d->few_atoms[i];
        if (Py_TYPE(atom) == (PyTypeObject *)d->state->atom_type && PySet_Add(d->arguments->atoms, atom) < 0) return -1;
    }
    if (!d->atom_set) return 0;
    PyObject *iterator = PyObject_GetIter(d->atom_set), *atom;
    if (!iterator) return -1;
    int status = 0;
    while (status == 0 && (atom = PyIter_Next(iterator))) {
        if (Py_TYPE(atom) == (PyTypeObject *)d->state->atom_type) status = PySet_Add(d->arguments->atoms, atom);
        Py_DECREF(atom);
    }
    Py_DECREF(iterator);
    return status < 0 || PyErr_Occurred() ? -1 : 0;
}

static void clear(Decoder *d)
{
    resume_collector(d);
    drop(d, 0);
    Py_XDECREF(d->frame.list);
    for (Py_ssize_t i = 0; i < d->depth; i++) Py_XDECREF(d->frames[i].list);
    if (d->values != d->few_values) PyMem_Free(d->values);
    if (d->frames != d->few_frames) PyMem_Free(d->frames);
    for (int i = 0; i < d->atom_count; i++) Py_DECREF(d->few_atoms[i]);
    Py_XDECREF(d->atom_set);
    Py_XDECREF(d->helper);
    Py_XDECREF(d->view);
}

/* What is read: the data of the caller, or what was inflated of it. */
typedef struct {
    PyObject *object; /* bytes, or a view that nobody can write through; borrowed */
    const uint8_t *data;
    Py_ssize_t size;
} Source;

/* The term that begins at *at, without its version byte; *at is its end then. */
static PyObject *decode_from(State *state, const DecodeArguments *arguments, const Ceilings *ceilings,
                             const Source *source, int whole, Py_ssize_t *at)
{
    PyObject *view = arguments->views ? PyMemoryView_FromObject(source->object) : NULL;
    if (arguments->views && !view) return NULL;
    Decoder d;
    d.state = state;
    d.arguments = arguments;
    d.ceilings = *ceilings; /* a copy: what Python runs in between may decode with other limits */
    d.data = source->data;
    d.at = source->data + *at;
    d.end = source->data + source->size;
    d.whole = whole;
    d.source = source->object;
    d.view = view;
    d.helper = NULL;
    d.generation = ++state->generation;
    d.values = d.few_values;
    d.top = 0;
    d.capacity = FEW_VALUES;
    d.frame = (Frame){1, 0, NULL, ROOT, 0};
    d.frames = d.few_frames;
    d.depth = 0;
    d.frames_capacity = FEW_FRAMES;
    d.outer = 0;
    d.terms = 1;
    /* An atom has two bytes at least: most data is too short for too many. */
    d.counts_atoms = arguments->atoms || (source->size - *at) / 2 > ceilings->atoms;
    d.atom_set = NULL;
    d.atom_count = 0;
    pause_collector(&d);

    PyObject *term = NULL;
    if (read_terms(&d) == 0 && (!arguments->atoms || give_atoms(&d) == 0)) term = d.values[--d.top];
    *at = d.at - d.data;
    clear(&d);
    return term;
}

static PyObject *decode_compressed(State *state, const DecodeArguments *arguments, const Ceilings *ceilings,
                                   const Source *source, Py_ssize_t *end)
{
    PyObject *read = PyObject_CallFunction(state->inflate, "OOn", source->object, arguments->limits, arguments->offset);
    PyObject *bytes, *term = NULL;
    if (read && PyTuple_CheckExact(read) && PyArg_ParseTuple(read, "Sn", &bytes, end) &&
        (*end == source->size || !arguments->whole)) {
        const Source inflated = {bytes, (const uint8_t *)PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes)};
        Py_ssize_t at = 0;
        term = decode_from(state, arguments, ceilings, &inflated, 1, &at);
    }
    Py_XDECREF(read);
    return term;
}

static PyObject *decode_source(State *state, const DecodeArguments *arguments, const Ceilings *ceilings,
                               const Source *source, Py_ssize_t *end)
{
    const Py_ssize_t offset = arguments->offset, left = source->size - offset;
    if (left < 1 || left > ceilings->size) return NULL;
    if (arguments->version) {
        const uint8_t *begin = source->data + offset;
        if (left < 2 || begin[0] != VERSION_BYTE) return NULL;
        if (begin[1] == COMPRESSED) return decode_compressed(state, arguments, ceilings, source, end);
    }
    *end = offset + arguments->version;
    return decode_from(state, arguments, ceilings, source, arguments->whole, end);
}

/* What is read in the place of a buffer: bytes, or a view of it that nobody can write through. What could be changed
   while it is read is copied: text_of_utf8 goes over a text twice. */
static PyObject *source_of(State *state, const DecodeArguments *arguments, Py_ssize_t most)
{
    PyObject *data = arguments->data;
    if (PyMemoryView_Check(data)) {
        const Py_buffer *view = PyMemoryView_GET_BUFFER(data);
        int is_of_bytes = view->ndim == 1 && view->format && strcmp(view->format, "B") == 0;
        if (is_of_bytes && view->obj && PyBytes_CheckExact(view->obj)) return Py_NewRef(data);
    }
    return PyObject_CallFunction(state->source_of, "Onn", data, most, arguments->offset);
}

PyObject *core_decode(State *state, const DecodeArguments *arguments, Py_ssize_t *end)
{
    PyObject *data = arguments->data;
    const Ceilings ceilings = state->ceilings;
    if (PyBytes_CheckExact(data)) {
        const Py_ssize_t stop = arguments->stop ? arguments->stop : PyBytes_GET_SIZE(data);
        const Source source = {data, (const uint8_t *)PyBytes_AS_STRING(data), stop};
        return decode_source(state, arguments, &ceilings, &source, end);
    }
    PyObject *object = source_of(state, arguments, ceilings.size);
    Py_buffer view;
    if (!object || PyObject_GetBuffer(object, &view, PyBUF_SIMPLE) < 0) {
        Py_XDECREF(object);
        return NULL;
    }
    const Source source = {object, view.buf, view.len};
    PyObject *term = decode_source(state, arguments, &ceilings, &source, end);
    PyBuffer_Release(&view);
    Py_DECREF(object);
    return term;
}
