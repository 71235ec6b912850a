/* Dicts of one shape: a copy of a dict with other values, which is how rows get theirs.

   To put the values in with PyDict_SetItem, each would be looked up by its key, and that takes a quarter of the time
   that rows take. But in a dict that nothing was ever removed from, they lie one behind the other in the order in which
   they came. Where they lie only the headers for CPython itself say, so this file alone includes one of them, for the
   versions that it was tried with; it looks whether things are where they should be, and else asks PyDict_SetItem. */

#if defined __has_include
#if __has_include("internal/pycore_dict.h")
#define HAS_LAYOUT
#endif
#endif

#ifdef HAS_LAYOUT
#define Py_BUILD_CORE 1
#endif
#include "_core.h"

#if defined HAS_LAYOUT && PY_VERSION_HEX < 0x030E0000
#include "internal/pycore_dict.h"

/* Where the first value is, and how far it is from one to the next; or NULL. */
static PyObject **first_value(PyObject *dict, PyObject *first_key, Py_ssize_t count, size_t *step)
{
    PyDictKeysObject *keys = ((PyDictObject *)dict)->ma_keys;
    if (((PyDictObject *)dict)->ma_values || keys->dk_nentries != count) return NULL;
    if (DK_IS_UNICODE(keys)) {
        PyDictUnicodeEntry *entry = DK_UNICODE_ENTRIES(keys);
        *step = sizeof *entry / sizeof(PyObject *);
        return entry->me_key == first_key && entry->me_value == Py_None ? &entry->me_value : NULL;
    }
    PyDictKeyEntry *entry = DK_ENTRIES(keys);
    *step = sizeof *entry / sizeof(PyObject *);
    return entry->me_key == first_key && entry->me_value == Py_None ? &entry->me_value : NULL;
}
#else
static PyObject **first_value(PyObject *Py_UNUSED(dict), PyObject *Py_UNUSED(first_key), Py_ssize_t Py_UNUSED(count),
                              size_t *Py_UNUSED(step))
{
    return NULL;
}
#endif

PyObject *copy_with_values(PyObject *pattern, PyObject **pairs, Py_ssize_t count)
{
    PyObject *dict = PyDict_Copy(pattern);
    if (!dict) return NULL;
    size_t step = 0;
    PyObject **value = first_value(dict, pairs[0], count, &step);
    if (value) {
        for (Py_ssize_t i = 0; i < count; i++, value += step) Py_SETREF(*value, pairs[2 * i + 1]);
        return dict;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyDict_SetItem(dict, pairs[2 * i], pairs[2 * i + 1]) < 0) {
            Py_DECREF(dict);
            return NULL;
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) Py_DECREF(pairs[2 * i + 1]);
    return dict;
}
