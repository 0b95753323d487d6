/* What every upload needs of its bytes, in C: see quick.py, which says what each function promises
 * and is what runs where there is no C compiler.
 *
 * Whatever is not plainly the usual case gives None, and the caller asks the parser that knows all
 * cases (llhttp). So nothing here is lenient: only bytes that can be read in one way are read. No
 * pointer leaves its buffer: each look ahead is bounded by `end`, which tests/formats/test_quick.py and
 * scripts/fuzz try with an address sanitizer.
 */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>
#include <strings.h>

/* More than any client or engine sends; what has more is for the parser that knows the limits. */
#define MOST_HEADERS 48
#define MOST_NAME_BYTES 64
/* So many digits always fit. */
#define MOST_DIGITS 15
/* As in multipart.py. */
#define MOST_PARTS 256
#define MOST_PART_HEAD_BYTES 8192
#define MOST_FIELD_BYTES 1048576
/* A usual line has a few hundred; a longer one is written on the heap. */
#define MOST_LINE_BYTES 1024
/* The digits of 2**64, a sign, a point. */
#define MOST_NUMBER_BYTES 24

enum { NAME = 1, TARGET = 2, VALUE = 4 };

/* Which bytes may stand in a header's name, a request's target, a header's value. */
static unsigned char kind_of[256];

/* Names that nearly every message has: made once, and so hashed once. */
static const char *const common_names[] = {
    "accept", "accept-encoding", "accept-language", "authorization", "connection",
    "content-length", "content-type", "date", "expect", "host", "server", "traceparent",
    "user-agent", "x-request-id", "x-stainless-arch", "x-stainless-async", "x-stainless-lang",
    "x-stainless-os", "x-stainless-package-version", "x-stainless-read-timeout",
    "x-stainless-retry-count", "x-stainless-runtime", "x-stainless-runtime-version",
};
#define COMMON_COUNT (sizeof common_names / sizeof *common_names)
static PyObject *common_objects[COMMON_COUNT];
static unsigned char common_lengths[COMMON_COUNT];

static int is_named(PyObject *name, const char *text) {
    return strcmp(PyBytes_AS_STRING(name), text) == 0;
}

static PyObject *name_object(const char *lowered, Py_ssize_t length) {
    for (size_t i = 0; i < COMMON_COUNT; i++) {
        if (common_lengths[i] == length && memcmp(common_names[i], lowered, length) == 0) {
            return Py_NewRef(common_objects[i]);
        }
    }
    return PyBytes_FromStringAndSize(lowered, length);
}

/* What the headers of a message say that decides how it is framed. */
typedef struct {
    long long content_length; /* -1: not said */
    int hosts;
    int is_closing;
    int is_odd; /* it says more than is dealt with here */
} Framing;

static int is_text(const char *value, Py_ssize_t length, const char *text) {
    return length == (Py_ssize_t)strlen(text) && strncasecmp(value, text, length) == 0;
}

static void note_framing(Framing *framing, PyObject *name, const char *value, Py_ssize_t length) {
    switch (PyBytes_GET_SIZE(name)) {
    case 4:
        framing->hosts += is_named(name, "host");
        break;
    case 7:
        framing->is_odd |= is_named(name, "upgrade") || is_named(name, "trailer");
        break;
    case 10:
        if (is_named(name, "connection")) {
            framing->is_closing |= is_text(value, length, "close");
            framing->is_odd |= !framing->is_closing && !is_text(value, length, "keep-alive");
        }
        break;
    case 14:
        if (is_named(name, "content-length")) {
            framing->is_odd |= framing->content_length >= 0 || length > MOST_DIGITS;
            long long number = 0;
            for (Py_ssize_t i = 0; i < length && !framing->is_odd; i++) {
                framing->is_odd |= value[i] < '0' || value[i] > '9';
                number = number * 10 + (value[i] - '0');
            }
            framing->content_length = number;
        }
        break;
    case 17:
        framing->is_odd |= is_named(name, "transfer-encoding");
        break;
    }
}

/* Read header lines from `at` up to and with the empty line into `headers`. Return where that ends;
 * NULL where they are not usual, or with an exception set. */
static const char *read_headers(const char *at, const char *end, PyObject *headers,
                                Framing *framing) {
    char lowered[MOST_NAME_BYTES + 1];
    while (end - at >= 2) {
        if (at[0] == '\r') {
            return at[1] == '\n' ? at + 2 : NULL;
        }
        if (PyList_GET_SIZE(headers) == MOST_HEADERS) {
            return NULL;
        }
        const char *name = at;
        while (at < end && kind_of[(unsigned char)*at] & NAME && at - name < MOST_NAME_BYTES) {
            /* Only letters have this bit to gain: digits and '-' have it already. */
            lowered[at - name] = *at | 0x20;
            at++;
        }
        Py_ssize_t name_length = at - name;
        if (!name_length || end - at < 3 || *at != ':') {
            return NULL;
        }
        lowered[name_length] = 0;
        at += at[1] == ' ' ? 2 : 1;
        const char *value = at;
        while (at < end && kind_of[(unsigned char)*at] & VALUE) {
            at++;
        }
        Py_ssize_t value_length = at - value;
        /* Blanks around a value, and none at all, are left to who knows what becomes of them. */
        if (!value_length || *value == ' ' || at[-1] == ' ' || end - at < 2 || at[0] != '\r' ||
            at[1] != '\n') {
            return NULL;
        }
        at += 2;
        PyObject *pair = PyTuple_New(2);
        if (pair == NULL) {
            return NULL;
        }
        PyObject *name_bytes = name_object(lowered, name_length);
        PyObject *value_bytes = PyBytes_FromStringAndSize(value, value_length);
        PyTuple_SET_ITEM(pair, 0, name_bytes);
        PyTuple_SET_ITEM(pair, 1, value_bytes);
        if (name_bytes == NULL || value_bytes == NULL || PyList_Append(headers, pair) < 0) {
            Py_DECREF(pair);
            return NULL;
        }
        note_framing(framing, name_bytes, value, value_length);
        Py_DECREF(pair);
        if (framing->is_odd) {
            return NULL;
        }
    }
    return NULL;
}

/* The end of a function that found nothing usual, or failed: an exception passes. */
static PyObject *nothing(PyObject *headers) {
    Py_XDECREF(headers);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The first value of each name. */
static PyObject *first_of(PyObject *headers) {
    PyObject *first = PyDict_New();
    for (Py_ssize_t i = 0; first != NULL && i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        if (PyDict_SetDefault(first, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1)) == NULL) {
            Py_CLEAR(first);
        }
    }
    return first;
}

static PyObject *usual_request(PyObject *module, PyObject *data) {
    (void)module;
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "a request's head must be bytes");
        return NULL;
    }
    const char *at = PyBytes_AS_STRING(data), *end = at + PyBytes_GET_SIZE(data);
    const char *method = at;
    Py_ssize_t method_length;
    if (end - at > 5 && memcmp(at, "POST ", 5) == 0) {
        method_length = 4;
    } else if (end - at > 4 && memcmp(at, "GET ", 4) == 0) {
        method_length = 3;
    } else {
        Py_RETURN_NONE;
    }
    at += method_length + 1;
    const char *target = at;
    while (at < end && kind_of[(unsigned char)*at] & TARGET) {
        at++;
    }
    Py_ssize_t target_length = at - target;
    if (!target_length || *target != '/' || end - at < 11 || memcmp(at, " HTTP/1.1\r\n", 11) != 0) {
        Py_RETURN_NONE;
    }
    at += 11;
    PyObject *headers = PyList_New(0);
    Framing framing = {-1, 0, 0, 0};
    at = headers == NULL ? NULL : read_headers(at, end, headers, &framing);
    if (at != end || framing.hosts != 1) {
        return nothing(headers);
    }
    PyObject *first = first_of(headers);
    if (first == NULL) {
        return nothing(headers);
    }
    PyObject *length = Py_None;
    if (framing.content_length < 0) {
        Py_INCREF(length);
    } else {
        length = PyLong_FromLongLong(framing.content_length);
    }
    return Py_BuildValue("s#y#NNNN", method, method_length, target, target_length, headers, first,
                         length, PyBool_FromLong(!framing.is_closing));
}

static PyObject *usual_answer(PyObject *module, PyObject *data) {
    (void)module;
    if (!PyBytes_Check(data)) {
        PyErr_SetString(PyExc_TypeError, "an answer must be bytes");
        return NULL;
    }
    const char *at = PyBytes_AS_STRING(data), *end = at + PyBytes_GET_SIZE(data);
    if (end - at < 13 || memcmp(at, "HTTP/1.1 ", 9) != 0 || at[12] != ' ') {
        Py_RETURN_NONE;
    }
    int status = 0;
    for (int i = 9; i < 12; i++) {
        if (at[i] < '0' || at[i] > '9') {
            Py_RETURN_NONE;
        }
        status = status * 10 + (at[i] - '0');
    }
    /* Interim answers, and those that never have a body, are not read here. */
    if (status < 200 || status > 599 || status == 204 || status == 304) {
        Py_RETURN_NONE;
    }
    at += 13;
    while (at < end && kind_of[(unsigned char)*at] & VALUE) {
        at++;
    }
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n') {
        Py_RETURN_NONE;
    }
    PyObject *headers = PyList_New(0);
    Framing framing = {-1, 0, 0, 0};
    at = headers == NULL ? NULL : read_headers(at + 2, end, headers, &framing);
    if (at == NULL || framing.content_length != end - at || framing.is_closing) {
        return nothing(headers);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        PyObject *value = PyTuple_GET_ITEM(pair, 1);
        if (is_named(PyTuple_GET_ITEM(pair, 0), "content-type") && PyBytes_GET_SIZE(value) >= 17 &&
            strncasecmp(PyBytes_AS_STRING(value), "text/event-stream", 17) == 0) {
            return nothing(headers);
        }
    }
    return Py_BuildValue("iNy#", status, headers, at, end - at);
}

static char *put(char *to, PyObject *bytes) {
    Py_ssize_t size = PyBytes_GET_SIZE(bytes);
    memcpy(to, PyBytes_AS_STRING(bytes), size);
    return to + size;
}

static PyObject *write_head(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 3 || !PyBytes_Check(args[0]) || !PyList_Check(args[1]) ||
        !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError, "write_head takes bytes, a list of pairs, and bytes");
        return NULL;
    }
    PyObject *start = args[0], *headers = args[1], *rest = args[2];
    Py_ssize_t size = PyBytes_GET_SIZE(start) + PyBytes_GET_SIZE(rest);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            !PyBytes_Check(PyTuple_GET_ITEM(pair, 0)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(pair, 1))) {
            PyErr_SetString(PyExc_TypeError, "a header is a pair of bytes");
            return NULL;
        }
        size += PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 0)) +
                PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 1)) + 4;
    }
    PyObject *out = PyBytes_FromStringAndSize(NULL, size);
    if (out == NULL) {
        return NULL;
    }
    char *to = put(PyBytes_AS_STRING(out), start);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        to = put(to, PyTuple_GET_ITEM(pair, 0));
        *to++ = ':';
        *to++ = ' ';
        to = put(to, PyTuple_GET_ITEM(pair, 1));
        *to++ = '\r';
        *to++ = '\n';
    }
    put(to, rest);
    return out;
}

/* Look up what `data[start:end]` is; false with an exception set where it is not there. */
static int range_of(PyObject *object, PyObject *start_object, PyObject *end_object,
                    const char **data, const char **start, const char **end) {
    Py_ssize_t size, from = PyLong_AsSsize_t(start_object), to = PyLong_AsSsize_t(end_object);
    if (PyErr_Occurred()) {
        return 0;
    }
    if (PyByteArray_Check(object)) {
        *data = PyByteArray_AS_STRING(object);
        size = PyByteArray_GET_SIZE(object);
    } else if (PyBytes_Check(object)) {
        *data = PyBytes_AS_STRING(object);
        size = PyBytes_GET_SIZE(object);
    } else {
        PyErr_SetString(PyExc_TypeError, "the data must be bytes or a bytearray");
        return 0;
    }
    if (from < 0 || from > to || to > size) {
        PyErr_SetString(PyExc_ValueError, "the offsets do not lie in the data");
        return 0;
    }
    *start = *data + from;
    *end = *data + to;
    return 1;
}

static PyObject *find(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "find takes data, bytes and two offsets");
        return NULL;
    }
    const char *data, *start, *end;
    if (!range_of(args[0], args[2], args[3], &data, &start, &end)) {
        return NULL;
    }
    /* The interpreter's lock is kept: to give it up for some microseconds would cost more. */
    const char *found =
        memmem(start, end - start, PyBytes_AS_STRING(args[1]), PyBytes_GET_SIZE(args[1]));
    return PyLong_FromSsize_t(found == NULL ? -1 : found - data);
}

static PyObject *copied(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const char *data, *start, *end;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "copied takes data and two offsets");
        return NULL;
    }
    if (!range_of(args[0], args[1], args[2], &data, &start, &end)) {
        return NULL;
    }
    return PyBytes_FromStringAndSize(start, end - start);
}

/* Where a quoted text of a part's head ends, from behind its first quote; NULL: it is none that can
 * be read in one way only. */
static const char *quoted_end(const char *at, const char *end) {
    while (at < end && *at != '"') {
        if (*at == '\\' || *at == '\r' || *at == '\n') {
            return NULL;
        }
        at++;
    }
    return at < end ? at : NULL;
}

static int starts(const char *at, const char *end, const char *text) {
    Py_ssize_t length = strlen(text);
    return end - at >= length && strncasecmp(at, text, length) == 0;
}

#define DISPOSITION "\r\nContent-Disposition: form-data; name=\""
#define FILENAME "; filename=\""
#define CONTENT_TYPE "\r\nContent-Type: "

/* What a part's usual head says: name, filename, content type, each in an object or None. False
 * where it is not usual, or with an exception set. */
static int read_part_head(const char *at, const char *end, PyObject *said[3]) {
    said[0] = said[1] = said[2] = NULL;
    const char *stop;
    if (!starts(at, end, DISPOSITION)) {
        return 0;
    }
    at += strlen(DISPOSITION);
    if ((stop = quoted_end(at, end)) == NULL) {
        return 0;
    }
    said[0] = PyUnicode_DecodeUTF8(at, stop - at, "replace");
    at = stop + 1;
    if (starts(at, end, FILENAME)) {
        at += strlen(FILENAME);
        if ((stop = quoted_end(at, end)) == NULL) {
            return 0;
        }
        said[1] = PyUnicode_DecodeUTF8(at, stop - at, "replace");
        at = stop + 1;
    } else {
        said[1] = Py_NewRef(Py_None);
    }
    if (starts(at, end, CONTENT_TYPE)) {
        at += strlen(CONTENT_TYPE);
        stop = at;
        while (stop < end && kind_of[(unsigned char)*stop] & VALUE) {
            stop++;
        }
        if (stop == at || *at == ' ' || stop[-1] == ' ') {
            return 0;
        }
        said[2] = PyBytes_FromStringAndSize(at, stop - at);
        at = stop;
    } else {
        said[2] = Py_NewRef(Py_None);
    }
    return at == end && said[0] != NULL && said[1] != NULL && said[2] != NULL;
}

static PyObject *usual_parts(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 4 || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "usual_parts takes data, bytes and two offsets");
        return NULL;
    }
    const char *data, *at, *end;
    if (!range_of(args[0], args[2], args[3], &data, &at, &end)) {
        return NULL;
    }
    const char *delimiter = PyBytes_AS_STRING(args[1]);
    Py_ssize_t length = PyBytes_GET_SIZE(args[1]);
    /* The first boundary has no line end before it. That the last one closes the form is looked at
     * first: of what does not end here nothing is to be read twice. */
    if (length < 4 || end - at < 2 * length + 8 || memcmp(at, delimiter + 2, length - 2) != 0 ||
        memcmp(end - length - 4, delimiter, length) != 0 || memcmp(end - 4, "--\r\n", 4) != 0) {
        Py_RETURN_NONE;
    }
    Py_ssize_t shift = at - data, field_bytes = 0;
    at += length - 2;
    PyObject *parts = PyList_New(0);
    while (parts != NULL && end - at >= 4 && at[0] == '\r' && at[1] == '\n') {
        Py_ssize_t most = end - at < MOST_PART_HEAD_BYTES ? end - at : MOST_PART_HEAD_BYTES;
        const char *head_end = memmem(at, most, "\r\n\r\n", 4);
        if (head_end == NULL || PyList_GET_SIZE(parts) == MOST_PARTS) {
            return nothing(parts);
        }
        const char *start = head_end + 4;
        const char *stop = memmem(start, end - start, delimiter, length);
        PyObject *said[3] = {NULL, NULL, NULL}, *value = NULL, *part = NULL;
        if (stop != NULL && read_part_head(at, head_end, said)) {
            if (said[1] != Py_None) {
                value = Py_NewRef(Py_None);
            } else if ((field_bytes += stop - start) <= MOST_FIELD_BYTES) {
                value = PyBytes_FromStringAndSize(start, stop - start);
            }
            if (value != NULL) {
                part = Py_BuildValue("OOOnnO", said[0], said[1], said[2], start - data - shift,
                                     stop - data - shift, value);
            }
        }
        Py_XDECREF(said[0]);
        Py_XDECREF(said[1]);
        Py_XDECREF(said[2]);
        Py_XDECREF(value);
        if (part == NULL || PyList_Append(parts, part) < 0) {
            Py_XDECREF(part);
            return nothing(parts);
        }
        Py_DECREF(part);
        at = stop + length;
    }
    /* Nothing but the closing boundary's own end may be left. */
    if (parts == NULL || end - at != 4 || at[0] != '-') {
        return nothing(parts);
    }
    return parts;
}

/* Numbers are written backwards from `at`; where they begin is returned. */
static char *put_digits(char *at, unsigned long long number, int least) {
    for (; number || least > 0; least--) {
        *--at = '0' + number % 10;
        number /= 10;
    }
    return at;
}

static char *put_whole(char *at, long long number) {
    at = put_digits(at, number < 0 ? 0ULL - (unsigned long long)number : (unsigned long long)number, 1);
    if (number < 0) {
        *--at = '-';
    }
    return at;
}

static char *put_fixed(char *at, double number) {
    /* Not a number fails the first comparison too. */
    number = number > 0.0 ? (number < 1e12 ? number : 1e12) : 0.0;
    unsigned long long ticks = (unsigned long long)(number * 10000 + 0.5);
    at = put_digits(at, ticks % 10000, 4);
    *--at = '.';
    return put_digits(at, ticks / 10000, 1);
}

/* A field's text and its size; a number's is written into `room`, and what must be let go of with
 * the text is put into `owned`. False with an exception set. */
static int field_text(PyObject *field, char room[MOST_NUMBER_BYTES], const char **text,
                      Py_ssize_t *size, PyObject **owned) {
    *owned = NULL;
    if (PyUnicode_Check(field)) {
        *text = PyUnicode_AsUTF8AndSize(field, size);
        if (*text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) {
            /* Half a surrogate pair: no reason to lose the line. */
            PyErr_Clear();
            *owned = PyUnicode_AsEncodedString(field, "utf-8", "replace");
            if (*owned != NULL) {
                *text = PyBytes_AS_STRING(*owned);
                *size = PyBytes_GET_SIZE(*owned);
            }
        }
        return *text != NULL;
    }
    char *const end = room + MOST_NUMBER_BYTES;
    if (PyFloat_Check(field)) {
        *text = put_fixed(end, PyFloat_AS_DOUBLE(field));
    } else {
        long long whole = PyLong_AsLongLong(field);
        if (whole == -1 && PyErr_Occurred()) {
            return 0;
        }
        *text = put_whole(end, whole);
    }
    *size = end - *text;
    return 1;
}

static PyObject *log_line(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count != 2 || !PyUnicode_Check(args[0]) || !PyTuple_Check(args[1]) ||
        PyTuple_GET_SIZE(args[1]) % 2) {
        PyErr_SetString(PyExc_TypeError, "log_line takes a text and a tuple of names and values");
        return NULL;
    }
    char stack[MOST_LINE_BYTES], room[MOST_NUMBER_BYTES];
    char *line = stack, *end = stack + sizeof stack;
    PyObject *out = NULL, *owned;
    const char *text;
    Py_ssize_t size;
    if (!field_text(args[0], room, &text, &size, &owned)) {
        return NULL;
    }
    Py_ssize_t used = 0;
    for (Py_ssize_t i = 0;; i++) {
        while (i < PyTuple_GET_SIZE(args[1]) && i % 2 == 0 &&
               PyTuple_GET_ITEM(args[1], i + 1) == Py_None) {
            i += 2;
        }
        /* Before the text there may come one more byte, and after it the line's end. */
        if (end - line - used < size + 2) {
            Py_ssize_t wanted = 2 * (used + size + 2);
            char *larger = PyMem_Realloc(line == stack ? NULL : line, wanted);
            if (larger == NULL) {
                PyErr_NoMemory();
                goto done;
            }
            if (line == stack) {
                memcpy(larger, stack, used);
            }
            line = larger;
            end = larger + wanted;
        }
        memcpy(line + used, text, size);
        used += size;
        Py_CLEAR(owned);
        if (i >= PyTuple_GET_SIZE(args[1])) {
            break;
        }
        line[used++] = i % 2 ? '=' : ' ';
        if (!field_text(PyTuple_GET_ITEM(args[1], i), room, &text, &size, &owned)) {
            goto done;
        }
    }
    line[used++] = '\n';
    out = PyUnicode_DecodeUTF8(line, used, NULL);
done:
    Py_XDECREF(owned);
    if (line != stack) {
        PyMem_Free(line);
    }
    return out;
}

static PyMethodDef functions[] = {
    {"find", (PyCFunction)(void (*)(void))find, METH_FASTCALL, NULL},
    {"copied", (PyCFunction)(void (*)(void))copied, METH_FASTCALL, NULL},
    {"log_line", (PyCFunction)(void (*)(void))log_line, METH_FASTCALL, NULL},
    {"usual_parts", (PyCFunction)(void (*)(void))usual_parts, METH_FASTCALL, NULL},
    {"usual_answer", usual_answer, METH_O, NULL},
    {"usual_request", usual_request, METH_O, NULL},
    {"write_head", (PyCFunction)(void (*)(void))write_head, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "quick", NULL, -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_quick(void) {
    for (int c = 0; c < 256; c++) {
        int is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        kind_of[c] = (is_word || c == '-' ? NAME : 0) | (c >= ' ' && c <= '~' ? VALUE : 0) |
                     (is_word || (c && strchr("-._~!$&'()*+,;=:@%/?", c)) ? TARGET : 0);
    }
    for (size_t i = 0; i < COMMON_COUNT; i++) {
        common_lengths[i] = strlen(common_names[i]);
        if (common_objects[i] == NULL) {
            common_objects[i] = PyBytes_FromString(common_names[i]);
        }
        if (common_objects[i] == NULL) {
            return NULL;
        }
    }
    return PyModule_Create(&definition);
}
