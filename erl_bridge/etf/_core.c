/* The compiled backend of the codec: `encode` and `decode` with the arguments, results and errors of encoder.py and
   decoder.py.

   It does what is common, and calls the Python functions that already exist for what is rare: structs, maps that no
   dict can hold, pids, old floats. Whatever it refuses it does not explain: it gives up, and the pure-Python function
   gets the same arguments and raises the error, so the messages are the same. Should that one not refuse, its result
   is returned. What a reader has to trust is therefore that this code is safe with memory and never wrong when it
   succeeds.

   The files: _core.h, what they share; _core_decode.c, _core_encode.c, _core_dict.c, _core_utf8.c; here are the module, its state and
   the arguments of the two functions.

   It relies on the global interpreter lock: the state is per module, and not guarded. So it declares that it needs the
   lock, and it is in the main interpreter of a process only: in another one the pure-Python codec is used. */

#include "_core.h"
#include <stddef.h>
#include <structmember.h>

/* ---- arguments ---- */

static int is_named(PyObject *given, const char *name)
{
    return PyUnicode_CompareWithASCIIString(given, name) == 0;
}

/* The values of the keyword arguments, in the order of `names`. Returns -1 for a keyword of another name. */
static int take_keywords(PyObject *const *given, PyObject *keywords, const char *const *names, PyObject **values)
{
    Py_ssize_t count = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        int at = 0;
        while (names[at] && !is_named(PyTuple_GET_ITEM(keywords, i), names[at])) at++;
        if (!names[at]) return -1;
        values[at] = given[i];
    }
    return 0;
}

/* After something was refused: whether the exception, if there is one, says only that. */
static int may_begin_anew(void)
{
    PyObject *error = PyErr_Occurred();
    if (!error) return 1;
    if (!PyErr_GivenExceptionMatches(error, PyExc_Exception) || PyErr_GivenExceptionMatches(error, PyExc_MemoryError)) {
        return 0;
    }
    PyErr_Clear();
    return 1;
}

/* A limit; one that is larger than any size is no limit. */
static Py_ssize_t ceiling(PyObject *limits, const char *name)
{
    PyObject *value = PyObject_GetAttrString(limits, name);
    if (!value) return -1;
    Py_ssize_t number = -1;
    if (PyLong_CheckExact(value)) number = PyNumber_AsSsize_t(value, NULL);
    Py_DECREF(value);
    return number;
}

/* Limits are immutable, and most callers use the same ones again and again. */
static int use_limits(State *state, PyObject *limits)
{
    if (limits == state->limits) return 0;
    Ceilings found = {
        ceiling(limits, "max_size"),  ceiling(limits, "max_depth"),      ceiling(limits, "max_terms"),
        ceiling(limits, "max_atoms"), ceiling(limits, "max_collisions"),
    };
    if (found.size < 0 || found.depth < 0 || found.terms < 0 || found.atoms < 0 || found.collisions < 0) return -1;
    state->ceilings = found;
    Py_XSETREF(state->limits, Py_NewRef(limits));
    return 0;
}

/* Of decode_prefix; those of decode are the ones behind the first two. */
static const char *const DECODE_NAMES[] = {"offset", "version", "limits", "binaries", "structs", "atoms", NULL};
enum { DECODE_OFFSET, VERSION, LIMITS, BINARIES, STRUCTS, MET_ATOMS, DECODE_KEYWORDS };

/* Whether it is true; 1 where there is none. */
static int truth(PyObject *given) { return given ? PyObject_IsTrue(given) : 1; }

/* A count of bytes, at least 0; 0 where there is none. */
static Py_ssize_t offset_of(PyObject *given)
{
    if (!given) return 0;
    return PyLong_CheckExact(given) ? PyNumber_AsSsize_t(given, NULL) : -1;
}

static PyObject *decode_with(State *state, PyObject *const *values, DecodeArguments *given, Py_ssize_t *end)
{
    given->limits = values[LIMITS] ? values[LIMITS] : state->default_limits;
    given->binaries = values[BINARIES] ? values[BINARIES] : state->auto_binaries;
    if (!PyUnicode_CheckExact(given->binaries)) return NULL;
    given->texts = given->binaries == state->auto_binaries || is_named(given->binaries, "auto");
    given->views = !given->texts && is_named(given->binaries, "memoryview");
    if (!given->texts && !given->views && !is_named(given->binaries, "bytes")) return NULL;
    given->structs = truth(values[STRUCTS]);
    given->version = truth(values[VERSION]);
    given->offset = offset_of(values[DECODE_OFFSET]);
    if (given->structs < 0 || given->version < 0 || given->offset < 0) return NULL;
    if (values[MET_ATOMS] && values[MET_ATOMS] != Py_None) {
        if (!PySet_Check(values[MET_ATOMS])) return NULL;
        given->atoms = values[MET_ATOMS];
    }
    return use_limits(state, given->limits) < 0 ? NULL : core_decode(state, given, end);
}

static PyObject *decode_quickly(State *state, PyObject *const *arguments, Py_ssize_t positional, PyObject *keywords)
{
    PyObject *values[DECODE_KEYWORDS] = {NULL};
    if (positional != 1) return NULL;
    if (take_keywords(arguments + 1, keywords, DECODE_NAMES + LIMITS, values + LIMITS) < 0) return NULL;
    DecodeArguments given = {.data = arguments[0], .whole = 1};
    Py_ssize_t end;
    return decode_with(state, values, &given, &end);
}

static PyObject *decode(PyObject *module, PyObject *const *arguments, Py_ssize_t positional, PyObject *keywords)
{
    State *state = PyModule_GetState(module);
    PyObject *term = decode_quickly(state, arguments, positional, keywords);
    if (term || !may_begin_anew()) return term;
    return PyObject_Vectorcall(state->py_decode, arguments, (size_t)positional, keywords);
}

static PyObject *decode_prefix_quickly(State *state, PyObject *const *arguments, Py_ssize_t positional,
                                       PyObject *keywords)
{
    PyObject *values[DECODE_KEYWORDS] = {NULL};
    if (positional < 1 || positional > 2) return NULL;
    if (take_keywords(arguments + positional, keywords, DECODE_NAMES, values) < 0) return NULL;
    if (positional == 2 && values[DECODE_OFFSET]) return NULL;
    if (positional == 2) values[DECODE_OFFSET] = arguments[1];
    DecodeArguments given = {.data = arguments[0]};
    Py_ssize_t end;
    PyObject *term = decode_with(state, values, &given, &end);
    return term ? Py_BuildValue("(Nn)", term, end) : NULL;
}

static PyObject *decode_prefix(PyObject *module, PyObject *const *arguments, Py_ssize_t positional, PyObject *keywords)
{
    State *state = PyModule_GetState(module);
    PyObject *read = decode_prefix_quickly(state, arguments, positional, keywords);
    if (read || !may_begin_anew()) return read;
    return PyObject_Vectorcall(state->py_decode_prefix, arguments, (size_t)positional, keywords);
}

/* Of encode_into; those of encode are the ones behind the first. */
static const char *const ENCODE_NAMES[] = {"offset", "atoms", "root", "default", "compressed", "max_depth", NULL};
enum { OFFSET, ATOMS, ROOT, DEFAULT, COMPRESS, MAX_DEPTH, ENCODE_KEYWORDS };
enum { MAX_ARGUMENTS = 3 + ENCODE_KEYWORDS };

static PyObject *encode_with(State *state, PyObject *const *values, EncodeArguments *given, EncodeOutcome *outcome)
{
    given->atoms = values[ATOMS] == Py_None ? NULL : values[ATOMS];
    given->fallback = values[DEFAULT] == Py_None ? NULL : values[DEFAULT];
    given->max_depth = state->ceilings_of_default.depth;
    if (values[MAX_DEPTH]) {
        if (!PyLong_CheckExact(values[MAX_DEPTH])) return NULL;
        given->max_depth = PyNumber_AsSsize_t(values[MAX_DEPTH], NULL);
    }
    int compress = values[COMPRESS] ? PyObject_IsTrue(values[COMPRESS]) : 0;
    if (compress < 0 || (compress && given->target)) return NULL;
    PyObject *result = core_encode(state, given, outcome);
    if (!result || !compress) return result;
    PyObject *packed = PyObject_CallFunctionObjArgs(state->compress, result, values[COMPRESS], NULL);
    Py_DECREF(result);
    return packed;
}

static PyObject *encode_quickly(State *state, PyObject *const *arguments, Py_ssize_t positional, PyObject *keywords,
                                EncodeOutcome *outcome)
{
    PyObject *values[ENCODE_KEYWORDS] = {NULL};
    if (positional != 1) return NULL;
    if (take_keywords(arguments + 1, keywords, ENCODE_NAMES + 1, values + 1) < 0) return NULL;
    EncodeArguments given = {.term = arguments[0]};
    return encode_with(state, values, &given, outcome);
}

static PyObject *encode_into_quickly(State *state, PyObject *const *arguments, Py_ssize_t positional,
                                     PyObject *keywords, EncodeOutcome *outcome)
{
    PyObject *values[ENCODE_KEYWORDS] = {NULL};
    if (positional < 2 || positional > 3) return NULL;
    if (take_keywords(arguments + positional, keywords, ENCODE_NAMES, values) < 0) return NULL;
    if (positional == 3 && values[OFFSET]) return NULL;
    if (positional == 3) values[OFFSET] = arguments[2];
    EncodeArguments given = {.term = arguments[0], .target = arguments[1], .offset = offset_of(values[OFFSET])};
    if (!PyByteArray_CheckExact(given.target)) return NULL;
    if (given.offset < 0 || given.offset > PyByteArray_GET_SIZE(given.target)) return NULL;
    return encode_with(state, values, &given, outcome);
}

/* After the quick way gave up: the pure-Python function with the same arguments; `again` is the one that also takes what
   hooks gave already. */
static PyObject *encode_slowly(PyObject *function, PyObject *again, EncodeOutcome *outcome, PyObject *const *arguments,
                               Py_ssize_t positional, PyObject *keywords)
{
    if (outcome->final || !may_begin_anew()) return NULL;
    if (!outcome->done) return PyObject_Vectorcall(function, arguments, (size_t)positional, keywords);
    PyObject *all[MAX_ARGUMENTS + 1] = {outcome->done}; /* they are no more, or the quick way would not have begun */
    size_t count = (size_t)positional + (keywords ? (size_t)PyTuple_GET_SIZE(keywords) : 0);
    memcpy(all + 1, arguments, count * sizeof *all);
    return PyObject_Vectorcall(again, all, (size_t)positional + 1, keywords);
}

static PyObject *encode(PyObject *module, PyObject *const *arguments, Py_ssize_t positional, PyObject *keywords)
{
    State *state = PyModule_GetState(module);
    EncodeOutcome outcome = {0, NULL};
    PyObject *bytes = encode_quickly(state, arguments, positional, keywords, &outcome);
    if (!bytes) {
        bytes = encode_slowly(state->py_encode, state->py_encode_again, &outcome, arguments, positional, keywords);
    }
    Py_XDECREF(outcome.done);
    return bytes;
}

static PyObject *encode_into(PyObject *module, PyObject *const *arguments, Py_ssize_t positional, PyObject *keywords)
{
    State *state = PyModule_GetState(module);
    EncodeOutcome outcome = {0, NULL};
    PyObject *end = encode_into_quickly(state, arguments, positional, keywords, &outcome);
    if (!end) {
        end = encode_slowly(state->py_encode_into, state->py_encode_into_again, &outcome, arguments, positional,
                            keywords);
    }
    Py_XDECREF(outcome.done);
    return end;
}

/* ---- for the fast paths ---- */

static PyObject *api_decode(State *state, PyObject *data, Py_ssize_t begin, Py_ssize_t stop, int version,
                            PyObject *limits, PyObject *atoms)
{
    if (use_limits(state, limits) < 0) return NULL;
    DecodeArguments given = {
        .data = data, .limits = limits, .atoms = atoms, .binaries = state->auto_binaries, .texts = 1, .structs = 1,
        .offset = begin, .stop = stop, .version = version, .whole = 1,
    };
    Py_ssize_t end;
    return core_decode(state, &given, &end);
}

static Py_ssize_t api_encode(State *state, PyObject *term, PyObject *atoms, PyObject *more_atoms, PyObject *target,
                             Py_ssize_t offset)
{
    EncodeOutcome outcome = {0, NULL};
    EncodeArguments given = {
        .term = term, .atoms = atoms, .more_atoms = more_atoms, .max_depth = state->ceilings_of_default.depth,
        .target = target, .offset = offset,
    };
    PyObject *end = core_encode(state, &given, &outcome);
    Py_XDECREF(outcome.done);
    if (!end) return -1;
    Py_ssize_t number = PyLong_AsSsize_t(end);
    Py_DECREF(end);
    return number;
}

static int offer_api(PyObject *module, State *state)
{
    state->api = (CoreApi){state, api_decode, api_encode};
    PyObject *capsule = PyCapsule_New(&state->api, CORE_API, NULL);
    int status = capsule ? PyModule_AddObjectRef(module, "_api", capsule) : -1;
    Py_XDECREF(capsule);
    return status;
}

/* ---- the module ---- */

static const struct {
    size_t offset; /* in State */
    const char *module, *name;
} BORROWED[] = {
    {offsetof(State, py_encode), "erl_bridge.etf.encoder", "encode"},
    {offsetof(State, leaf_writers), "erl_bridge.etf.encoder", "_LEAVES"},
    {offsetof(State, container_openers), "erl_bridge.etf.encoder", "_CONTAINERS"},
    {offsetof(State, py_encode_again), "erl_bridge.etf.encoder", "encode_again"},
    {offsetof(State, py_encode_into), "erl_bridge.etf.encoder", "encode_into"},
    {offsetof(State, py_encode_into_again), "erl_bridge.etf.encoder", "encode_into_again"},
    {offsetof(State, stand_in), "erl_bridge.etf.encoder", "noted_stand_in"},
    {offsetof(State, refused), "erl_bridge.etf.encoder", "REFUSED"},
    {offsetof(State, compress), "erl_bridge.etf.encoder", "_compressed"},
    {offsetof(State, py_decode), "erl_bridge.etf.decoder", "decode"},
    {offsetof(State, py_decode_prefix), "erl_bridge.etf.decoder", "decode_prefix"},
    {offsetof(State, py_decoder_type), "erl_bridge.etf.decoder", "_Decoder"},
    {offsetof(State, source_of), "erl_bridge.etf.decoder", "_source"},
    {offsetof(State, text_of_view), "erl_bridge.etf.decoder", "_text_of_view"},
    {offsetof(State, inflate), "erl_bridge.etf.decoder", "_inflate"},
    {offsetof(State, rare_leaves), "erl_bridge.etf.decoder", "_LEAVES"},
    {offsetof(State, known_atoms), "erl_bridge.etf.decoder", "_UTF_8"},
    {offsetof(State, default_limits), "erl_bridge.etf.limits", "DEFAULT"},
    {offsetof(State, make_map), "erl_bridge.etf.maps", "make_map"},
    {offsetof(State, struct_key), "erl_bridge.etf.structs", "STRUCT"},
    {offsetof(State, from_fields), "erl_bridge.etf.structs", "from_fields"},
    {offsetof(State, atom_type), "erl_bridge.terms", "Atom"},
    {offsetof(State, improper_list_type), "erl_bridge.terms", "ImproperList"},
    {offsetof(State, pid_type), "erl_bridge.terms", "Pid"},
    {offsetof(State, port_type), "erl_bridge.terms", "Port"},
    {offsetof(State, reference_type), "erl_bridge.terms", "Reference"},
    {offsetof(State, export_type), "erl_bridge.terms", "Export"},
    {offsetof(State, bit_string_type), "erl_bridge.terms", "BitString"},
};
enum { BORROWED_COUNT = sizeof BORROWED / sizeof *BORROWED };

static PyObject **borrowed(State *state, size_t index) { return (PyObject **)((char *)state + BORROWED[index].offset); }

static int borrow(State *state, size_t index)
{
    PyObject *module = PyImport_ImportModule(BORROWED[index].module);
    if (!module) return -1;
    PyObject *object = PyObject_GetAttrString(module, BORROWED[index].name);
    Py_DECREF(module);
    *borrowed(state, index) = object;
    return object ? 0 : -1;
}

/* Attributes of objects whose types are written in Python, and where in State is noted where the objects have them: a
   slot of a Python class is at the same place in all its objects. */
static const struct {
    size_t type; /* in State */
    const char *name;
    size_t offset; /* in State */
} SLOTS[] = {
    {offsetof(State, atom_type), "external", offsetof(State, external_offset)},
    {offsetof(State, pid_type), "node", offsetof(State, pid_slots[0])},
    {offsetof(State, pid_type), "id", offsetof(State, pid_slots[1])},
    {offsetof(State, pid_type), "serial", offsetof(State, pid_slots[2])},
    {offsetof(State, pid_type), "creation", offsetof(State, pid_slots[3])},
    {offsetof(State, port_type), "node", offsetof(State, port_slots[0])},
    {offsetof(State, port_type), "id", offsetof(State, port_slots[1])},
    {offsetof(State, port_type), "creation", offsetof(State, port_slots[2])},
    {offsetof(State, reference_type), "node", offsetof(State, reference_slots[0])},
    {offsetof(State, reference_type), "creation", offsetof(State, reference_slots[1])},
    {offsetof(State, reference_type), "ids", offsetof(State, reference_slots[2])},
    {offsetof(State, improper_list_type), "items", offsetof(State, improper_list_slots[0])},
    {offsetof(State, improper_list_type), "tail", offsetof(State, improper_list_slots[1])},
};
enum { SLOT_COUNT = sizeof SLOTS / sizeof *SLOTS };

static int find_slot(State *state, size_t index)
{
    PyObject *type = *(PyObject **)((char *)state + SLOTS[index].type);
    PyObject *slot = PyObject_GetAttrString(type, SLOTS[index].name);
    if (!slot) return -1;
    int found = Py_IS_TYPE(slot, &PyMemberDescr_Type);
    if (found) {
        *(Py_ssize_t *)((char *)state + SLOTS[index].offset) = ((PyMemberDescrObject *)slot)->d_member->offset;
    } else {
        PyErr_Format(PyExc_ImportError, "%R.%s is no slot", type, SLOTS[index].name);
    }
    Py_DECREF(slot);
    return found ? 0 : -1;
}

static int check_kinds(State *state)
{
    if (PyType_Check(state->atom_type) && PyType_Check(state->pid_type) && PyType_Check(state->port_type) &&
        PyType_Check(state->reference_type) && PyType_Check(state->improper_list_type) && PyDict_CheckExact(state->leaf_writers) &&
        PyDict_CheckExact(state->container_openers) && PyList_CheckExact(state->rare_leaves)) {
        return 0;
    }
    PyErr_SetString(PyExc_ImportError, "the Python files of the codec are others than _core was made for");
    return -1;
}

/* Python 3.12 and later refuse by themselves, where an interpreter was made with that check; 3.11 has no such check. */
static int is_in_main_interpreter(void)
{
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) return 1;
    PyErr_SetString(PyExc_ImportError, "erl_bridge.etf._core is for the main interpreter only");
    return 0;
}

static int execute(PyObject *module)
{
    if (!is_in_main_interpreter()) return -1;
    State *state = PyModule_GetState(module); /* zeros at first */
    for (size_t i = 0; i < BORROWED_COUNT; i++) {
        if (borrow(state, i) < 0) return -1;
    }
    if (check_kinds(state) < 0) return -1;
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        if (find_slot(state, i) < 0) return -1;
    }
    state->plain_keyword = Py_BuildValue("(s)", "plain");
    state->auto_binaries = PyUnicode_InternFromString("auto");
    for (int i = 0; i < 256; i++) {
        state->bytes[i] = PyLong_FromLong(i);
        if (!state->bytes[i]) return -1;
    }
    if (!state->plain_keyword || !state->auto_binaries || use_limits(state, state->default_limits) < 0) return -1;
    state->ceilings_of_default = state->ceilings;
    return offer_api(module, state);
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    if (!state) return 0;
    for (size_t i = 0; i < BORROWED_COUNT; i++) Py_VISIT(*borrowed(state, i));
    Py_VISIT(state->plain_keyword);
    Py_VISIT(state->auto_binaries);
    Py_VISIT(state->limits);
    for (int i = 0; i < 256; i++) Py_VISIT(state->bytes[i]);
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        Py_VISIT(state->atoms[i].atom);
        Py_VISIT(state->keys[i]);
    }
    for (size_t i = 0; i < SHAPES; i++) Py_VISIT(state->shapes[i].pattern);
    return 0;
}

static int clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    if (!state) return 0;
    for (size_t i = 0; i < BORROWED_COUNT; i++) Py_CLEAR(*borrowed(state, i));
    Py_CLEAR(state->plain_keyword);
    Py_CLEAR(state->auto_binaries);
    Py_CLEAR(state->limits);
    for (int i = 0; i < 256; i++) Py_CLEAR(state->bytes[i]);
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        Py_CLEAR(state->atoms[i].atom);
        Py_CLEAR(state->keys[i]);
    }
    for (size_t i = 0; i < SHAPES; i++) Py_CLEAR(state->shapes[i].pattern);
    return 0;
}

static void release(void *module) { clear((PyObject *)module); }

PyDoc_STRVAR(encode_doc,
             "encode($module, term, /, *, compressed=False, atoms=None, default=None, root='term', max_depth=10000)\n"
             "--\n\n"
             "The external form of the term; see erl_bridge.etf.encoder.encode.");
PyDoc_STRVAR(encode_into_doc, "encode_into($module, term, buffer, offset=0, /, **options)\n"
                              "--\n\n"
                              "Writes the term into the buffer; see erl_bridge.etf.encoder.encode_into.");
PyDoc_STRVAR(decode_doc, "decode($module, data, /, *, limits=DEFAULT, binaries='auto', structs=True, atoms=None)\n"
                         "--\n\n"
                         "The term in the bytes; see erl_bridge.etf.decoder.decode.");
PyDoc_STRVAR(decode_prefix_doc, "decode_prefix($module, data, /, offset=0, *, version=True, **options)\n"
                                "--\n\n"
                                "The term at the offset, and where it ends; see erl_bridge.etf.decoder.decode_prefix.");

static PyMethodDef methods[] = {
    {"encode", (PyCFunction)(void (*)(void))encode, METH_FASTCALL | METH_KEYWORDS, encode_doc},
    {"encode_into", (PyCFunction)(void (*)(void))encode_into, METH_FASTCALL | METH_KEYWORDS, encode_into_doc},
    {"decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL | METH_KEYWORDS, decode_doc},
    {"decode_prefix", (PyCFunction)(void (*)(void))decode_prefix, METH_FASTCALL | METH_KEYWORDS, decode_prefix_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "erl_bridge.etf._core",
    .m_doc = "The compiled backend of the codec.",
    .m_size = sizeof(State),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = release,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
