/* From the pixels of stamps to what a network sees, in one pass: turn and shift, choose the channels, change the units.
 *
 * Row by row, so that what is in between stays in the processor's first cache. Multiply-add is not contracted: a network is given
 * the same bits on every processor.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "../../shards/_arcsinh.h"

#define MAX_ROW 16384 /* numbers in a row of a stamp: 64 pixels of 256 channels */
#define NOT_FINITE 0x7f800000 /* the exponent of what is infinite or no number */

enum { FLIP, TURNS, DX, DY, MOVES }; /* the columns of `moves` */
enum { INVERSE, TIMES, PLUS, FACTORS }; /* the rows of `factors` */

typedef struct {
    Py_ssize_t size, from, to; /* pixels a side, channels of the stamps, channels of what the network sees */
    const int32_t *sources; /* two a channel that the network sees: which of the stamps', and which is its inverse variance or -1 */
    const float *factors; /* a row of pixels each */
    int in_order, curved; /* whether the channels are just those of the stamps; whether there is an arcsinh */
} Task;

/* Where the pixel (row, column) of the turned stamp lies in the stamp: numpy.rot90(stamp[:, ::-1] if flip else stamp, turns). */
static Py_ssize_t source_of(int32_t flip, int32_t turns, Py_ssize_t row, Py_ssize_t column, Py_ssize_t size) {
    Py_ssize_t last = size - 1, rows[4] = {row, column, last - row, last - column}, columns[4] = {column, last - row, last - column, row};
    Py_ssize_t across = columns[turns & 3];
    return rows[turns & 3] * size + (flip ? last - across : across);
}

/* Copies pixels that lie `step` pixels apart. */
INLINE void copy_apart(const float *pixels, Py_ssize_t step, Py_ssize_t count, Py_ssize_t channels, float *restrict out) {
    for (Py_ssize_t x = 0; x < count; x++, pixels += step * channels, out += channels)
        for (Py_ssize_t channel = 0; channel < channels; channel++) out[channel] = pixels[channel];
}

static void copy_row(const float *pixels, Py_ssize_t step, Py_ssize_t count, Py_ssize_t channels, float *out) {
    if (step == 1) memcpy(out, pixels, count * channels * sizeof *out);
    else if (channels == 6) copy_apart(pixels, step, count, 6, out); /* a number of its own: its loop is unrolled */
    else copy_apart(pixels, step, count, channels, out);
}

/* Puts row y of the turned and shifted stamp into `row`; what a shift brings in is 0. */
static void fetch(const Task *task, const float *stamp, const int32_t *move, Py_ssize_t y, float *row) {
    Py_ssize_t size = task->size, from = task->from, dx = move[DX], dy = move[DY];
    Py_ssize_t first = dx > 0 ? 0 : -dx, count = size - (dx > 0 ? dx : -dx);
    if (dx || dy) memset(row, 0, size * from * sizeof *row);
    if (y - dy < 0 || y - dy >= size || count <= 0) return;
    Py_ssize_t start = source_of(move[FLIP], move[TURNS], y - dy, first, size);
    Py_ssize_t step = source_of(move[FLIP], move[TURNS], y - dy, first + 1, size) - start;
    copy_row(stamp + start * from, step, count, from, row + (dx > 0 ? dx : 0) * from);
}

static void choose(const Task *task, const float *restrict row, float *restrict chosen) {
    for (Py_ssize_t channel = 0; channel < task->to; channel++) {
        const float *value = row + task->sources[2 * channel];
        float *out = chosen + channel;
        if (task->sources[2 * channel + 1] < 0) {
            for (Py_ssize_t x = 0; x < task->size; x++) out[x * task->to] = value[x * task->from];
        } else {
            const float *invvar = row + task->sources[2 * channel + 1];
            for (Py_ssize_t x = 0; x < task->size; x++) out[x * task->to] = value[x * task->from] * sqrtf(invvar[x * task->from]);
        }
    }
}

/* Returns not 0 if one of the numbers is not finite. */
INLINE int32_t change_units(const float *restrict row, const float *restrict factors, Py_ssize_t length, int curved, float *restrict out) {
    const float *inverse = factors + INVERSE * length, *times = factors + TIMES * length, *plus = factors + PLUS * length;
    int32_t bad = 0;
    for (Py_ssize_t i = 0; i < length; i++) {
        float value = row[i] * inverse[i];
        if (curved) value = arcsinh(value);
        value = value * times[i] + plus[i];
        bad |= (as_bits(value) & NOT_FINITE) == NOT_FINITE;
        out[i] = value;
    }
    return bad;
}

VARIANTS static int32_t change_curved(const float *row, const float *factors, Py_ssize_t length, float *out) {
    return change_units(row, factors, length, 1, out);
}

VARIANTS static int32_t change_linear(const float *row, const float *factors, Py_ssize_t length, float *out) {
    return change_units(row, factors, length, 0, out);
}

/* `stamp` and `out` may be the same memory where nothing is moved: each row is taken out before it is written. */
static int32_t see_stamp(const Task *task, const float *stamp, const int32_t *move, float *out) {
    float row[MAX_ROW], picked[MAX_ROW];
    const float *chosen = task->in_order ? row : picked;
    Py_ssize_t length = task->size * task->to;
    int32_t bad = 0;
    for (Py_ssize_t y = 0; y < task->size; y++, out += length) {
        fetch(task, stamp, move, y, row);
        if (!task->in_order) choose(task, row, picked);
        bad |= task->curved ? change_curved(chosen, task->factors, length, out) : change_linear(chosen, task->factors, length, out);
    }
    return bad;
}

static void see_all(const Task *task, const float *stamps, const int32_t *moves, Py_ssize_t count, float *out, uint8_t *finite) {
    static const int32_t none[MOVES] = {0};
    Py_ssize_t area = task->size * task->size;
    for (Py_ssize_t n = 0; n < count; n++)
        finite[n] = !see_stamp(task, stamps + n * area * task->from, moves ? moves + n * MOVES : none, out + n * area * task->to);
}

enum { STAMPS, MOVED, SOURCES, UNITS, OUT, FINITE, BUFFERS };

static int is_of(const Py_buffer *buffer, Py_ssize_t numbers) { return buffer->len == 4 * numbers && (uintptr_t)buffer->buf % 4 == 0; }

static int overlap(const Py_buffer *one, const Py_buffer *other) {
    uintptr_t a = (uintptr_t)one->buf, b = (uintptr_t)other->buf;
    return a < b + other->len && b < a + one->len;
}

/* Completes the task; returns what is wrong with the arguments, or NULL. */
static const char *misuse(const Py_buffer *buffers, Task *task) {
    Py_ssize_t size = task->size, count = buffers[FINITE].len;
    task->to = buffers[SOURCES].len / 8;
    if (size < 1 || task->from < 1 || task->to < 1 || size > MAX_ROW / task->from || size > MAX_ROW / task->to) return "an impossible size";
    if (!is_of(&buffers[STAMPS], count * size * size * task->from)) return "stamps of another shape";
    if (!is_of(&buffers[OUT], count * size * size * task->to)) return "room of another shape";
    if (!is_of(&buffers[SOURCES], 2 * task->to) || !is_of(&buffers[UNITS], FACTORS * size * task->to)) return "factors of another shape";
    if (!is_of(&buffers[MOVED], 0) && !is_of(&buffers[MOVED], count * MOVES)) return "moves of another shape";
    task->sources = buffers[SOURCES].buf;
    task->factors = buffers[UNITS].buf;
    task->in_order = task->from == task->to;
    for (Py_ssize_t n = 0; n < task->to; n++) {
        int32_t value = task->sources[2 * n], invvar = task->sources[2 * n + 1];
        if (value < 0 || value >= task->from || invvar < -1 || invvar >= task->from) return "a channel that there is not";
        task->in_order = task->in_order && value == n && invvar < 0;
    }
    int same = buffers[STAMPS].buf == buffers[OUT].buf && task->in_order && !buffers[MOVED].len;
    return !same && overlap(&buffers[STAMPS], &buffers[OUT]) ? "stamps and room that overlap" : NULL;
}

PyDoc_STRVAR(see_doc,
             "see(stamps, moves, sources, factors, out, finite, size, channels, curved)\n--\n\n"
             "Put what a network sees of stamps into out, and whether all of it is finite, stamp by stamp, into finite.\n\n"
             "Contiguous buffers. stamps: float32 (n, size, size, channels). moves: int32 (n, 4), of each stamp whether it is mirrored in x,\n"
             "by how many right angles it is then turned as numpy.rot90 does, and by how many pixels it is then shifted in x and in y; or\n"
             "empty. sources: int32 (m, 2), for each channel that the network sees the channel of the stamps that it is, and that whose\n"
             "square root it is multiplied by, or -1. factors: float32 (3, size * m), for a row of pixels: what they are multiplied by, then,\n"
             "after an arcsinh where curved is true, multiplied by and added. out: float32 (n, size, size, m); it may be stamps itself where\n"
             "nothing is moved or chosen. finite: uint8 (n,). Raises ValueError when they do not fit each other.");

static PyObject *see(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer buffers[BUFFERS];
    Task task = {0};
    if (!PyArg_ParseTuple(arguments, "y*y*y*y*w*w*nnp", &buffers[STAMPS], &buffers[MOVED], &buffers[SOURCES], &buffers[UNITS], &buffers[OUT],
                          &buffers[FINITE], &task.size, &task.from, &task.curved))
        return NULL;
    const char *mistake = misuse(buffers, &task);
    if (mistake) {
        PyErr_Format(PyExc_ValueError, "see was given %s", mistake);
    } else {
        const int32_t *moves = buffers[MOVED].len ? buffers[MOVED].buf : NULL;
        Py_BEGIN_ALLOW_THREADS;
        see_all(&task, buffers[STAMPS].buf, moves, buffers[FINITE].len, buffers[OUT].buf, buffers[FINITE].buf);
        Py_END_ALLOW_THREADS;
    }
    for (int n = 0; n < BUFFERS; n++) PyBuffer_Release(&buffers[n]);
    if (mistake) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"see", see, METH_VARARGS, see_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_inputs", "What a network sees of stamps.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__inputs(void) { return PyModule_Create(&definition); }
