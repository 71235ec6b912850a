/* Between UTF-8 and str. CPython's own functions would do, but PyUnicode_AsUTF8 keeps a copy of what it encoded in the
   str for as long as that lives, which is much for a long text, and PyUnicode_DecodeUTF8 makes an exception, with a copy
   of the bytes, of each binary that is no text. */

#include "_core.h"

#define HIGH_BITS UINT64_C(0x8080808080808080)

/* How many bytes at the beginning are ASCII, give or take less than a word. */
static size_t ascii_prefix(const uint8_t *bytes, size_t size)
{
    size_t at = 0;
    while (size - at >= 32) {
        uint64_t any = load_word(bytes + at) | load_word(bytes + at + 8) | load_word(bytes + at + 16) |
                       load_word(bytes + at + 24);
        if (any & HIGH_BITS) break;
        at += 32;
    }
    while (size - at >= 8 && !(load_word(bytes + at) & HIGH_BITS)) at += 8;
    return at;
}

int is_ascii(const uint8_t *bytes, size_t size)
{
    if (size >= 8) { /* the last word may be one that begins before the others end */
        return size - ascii_prefix(bytes, size) < 8 && !(load_word(bytes + size - 8) & HIGH_BITS);
    }
    uint8_t any = 0;
    for (size_t at = 0; at < size; at++) any |= bytes[at];
    return !(any & 0x80);
}

static inline int is_continuation(uint8_t byte) { return (byte & 0xC0) == 0x80; }

/* One character that is not ASCII, by the table of well-formed sequences in the Unicode standard (3.9, table 3-7).
   Returns how many bytes it has, 0 where there is none. */
static inline size_t one_character(const uint8_t *p, size_t left, uint32_t *character)
{
    uint8_t first = p[0];
    if (first < 0xE0) {
        if (first < 0xC2 || left < 2 || !is_continuation(p[1])) return 0;
        *character = (uint32_t)(first & 0x1F) << 6 | (p[1] & 0x3F);
        return 2;
    }
    if (first < 0xF0) {
        if (left < 3 || !is_continuation(p[1]) || !is_continuation(p[2])) return 0;
        *character = (uint32_t)(first & 0x0F) << 12 | (uint32_t)(p[1] & 0x3F) << 6 | (p[2] & 0x3F);
        return *character < 0x800 || (*character >= 0xD800 && *character <= 0xDFFF) ? 0 : 3;
    }
    if (first > 0xF4 || left < 4 || !is_continuation(p[1]) || !is_continuation(p[2]) || !is_continuation(p[3])) {
        return 0;
    }
    *character = (uint32_t)(first & 0x07) << 18 | (uint32_t)(p[1] & 0x3F) << 12 | (uint32_t)(p[2] & 0x3F) << 6 |
                 (p[3] & 0x3F);
    return *character < 0x10000 || *character > 0x10FFFF ? 0 : 4;
}

/* How many characters there are, and bits that are set in any of them; -1 where the bytes are not UTF-8. */
static Py_ssize_t measure(const uint8_t *bytes, size_t size, uint32_t *bits)
{
    Py_ssize_t count = 0;
    uint32_t any = 0, character = 0;
    size_t at = 0;
    while (at < size) {
        if (bytes[at] < 0x80) {
            at++;
        } else {
            size_t length = one_character(bytes + at, size - at, &character);
            if (!length) return -1;
            any |= character;
            at += length;
        }
        count++;
    }
    *bits = any;
    return count;
}

/* The bytes are known to be UTF-8. */
#define FILL(type)                                                                                    \
    do {                                                                                              \
        type *out = (type *)PyUnicode_DATA(text);                                                     \
        for (size_t at = 0; at < size;) {                                                             \
            uint32_t character = bytes[at];                                                           \
            if (character < 0x80) {                                                                   \
                at++;                                                                                 \
            } else if (character < 0xE0) {                                                            \
                character = (character & 0x1F) << 6 | (bytes[at + 1] & 0x3Fu);                        \
                at += 2;                                                                              \
            } else if (character < 0xF0) {                                                            \
                character = (character & 0x0F) << 12 | (bytes[at + 1] & 0x3Fu) << 6 |                 \
                            (bytes[at + 2] & 0x3Fu);                                                  \
                at += 3;                                                                              \
            } else {                                                                                  \
                character = (character & 0x07) << 18 | (bytes[at + 1] & 0x3Fu) << 12 |                \
                            (bytes[at + 2] & 0x3Fu) << 6 | (bytes[at + 3] & 0x3Fu);                   \
                at += 4;                                                                              \
            }                                                                                         \
            *out++ = (type)character;                                                                 \
        }                                                                                             \
    } while (0)

PyObject *text_of_utf8(const uint8_t *bytes, size_t size)
{
    if (is_ascii(bytes, size)) {
        PyObject *text = PyUnicode_New((Py_ssize_t)size, 127);
        if (text) memcpy(PyUnicode_1BYTE_DATA(text), bytes, size);
        return text;
    }
    uint32_t bits = 0;
    Py_ssize_t count = measure(bytes, size, &bits);
    if (count < 0) return NULL;
    /* The bits of several characters may come to more than any character has; only their order of size matters. */
    PyObject *text = PyUnicode_New(count, bits > 0xFFFF ? 0x10FFFF : bits > 0xFF ? 0xFFFF : 0xFF);
    if (!text) return NULL;
    switch (PyUnicode_KIND(text)) {
    case PyUnicode_1BYTE_KIND: FILL(Py_UCS1); break;
    case PyUnicode_2BYTE_KIND: FILL(Py_UCS2); break;
    default: FILL(Py_UCS4); break;
    }
    return text;
}

static inline uint8_t *put_character(uint8_t *out, uint32_t character)
{
    if (character < 0x80) {
        *out++ = (uint8_t)character;
    } else if (character < 0x800) {
        *out++ = (uint8_t)(0xC0 | character >> 6);
        *out++ = (uint8_t)(0x80 | (character & 0x3F));
    } else if (character < 0x10000) {
        *out++ = (uint8_t)(0xE0 | character >> 12);
        *out++ = (uint8_t)(0x80 | (character >> 6 & 0x3F));
        *out++ = (uint8_t)(0x80 | (character & 0x3F));
    } else {
        *out++ = (uint8_t)(0xF0 | character >> 18);
        *out++ = (uint8_t)(0x80 | (character >> 12 & 0x3F));
        *out++ = (uint8_t)(0x80 | (character >> 6 & 0x3F));
        *out++ = (uint8_t)(0x80 | (character & 0x3F));
    }
    return out;
}

uint8_t *utf8_of_text(PyObject *text, uint8_t *out)
{
    const PyCompactUnicodeObject *whole = (const PyCompactUnicodeObject *)text;
    if (PyUnicode_IS_COMPACT(text) && whole->utf8) { /* somebody asked for it before, and Python keeps it */
        memcpy(out, whole->utf8, (size_t)whole->utf8_length);
        return out + whole->utf8_length;
    }
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    switch (PyUnicode_KIND(text)) {
    case PyUnicode_1BYTE_KIND: {
        const Py_UCS1 *in = PyUnicode_1BYTE_DATA(text);
        for (Py_ssize_t at = 0; at < length; at++) out = put_character(out, in[at]);
        return out;
    }
    case PyUnicode_2BYTE_KIND: {
        const Py_UCS2 *in = PyUnicode_2BYTE_DATA(text);
        for (Py_ssize_t at = 0; at < length; at++) {
            if (in[at] >= 0xD800 && in[at] <= 0xDFFF) return NULL;
            out = put_character(out, in[at]);
        }
        return out;
    }
    default: {
        const Py_UCS4 *in = PyUnicode_4BYTE_DATA(text);
        for (Py_ssize_t at = 0; at < length; at++) {
            if (in[at] >= 0xD800 && in[at] <= 0xDFFF) return NULL;
            out = put_character(out, in[at]);
        }
        return out;
    }
    }
}
