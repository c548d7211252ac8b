/* HDF5's Fletcher-32 checksum (H5checksum.c of the HDF5 library), in loops that a compiler can vectorise.
 *
 * Of the 16-bit words w[0] ... w[n-1], big-endian: the sum of w[i], and the sum of (n - i) w[i], both modulo 65535, where 65535
 * stands for 0 unless all words are 0. Swapping a word's bytes is a multiplication by 256 modulo 65535, so the words are summed
 * as the machine has them, and the sums are swapped at the end.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define LANES 32  /* words summed side by side */
#define STEPS 256 /* words of a lane until its sums would overflow: 65535 * STEPS * (STEPS + 1) / 2 < 2^32 */

/* With AVX-512 it is much faster; the loader decides. What compilers make of it with AVX2 is slower than without. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute)
#if __has_attribute(target_clones)
#define VARIANTS __attribute__((target_clones("avx512f", "default")))
#endif
#endif
#ifndef VARIANTS
#define VARIANTS
#endif

typedef struct { uint64_t words, weighted; } Sums;

VARIANTS static Sums sum_block(const uint8_t *data, size_t steps) {
    uint32_t words[LANES] = {0}, weighted[LANES] = {0};
    for (size_t step = 0; step < steps; step++) {
        uint16_t row[LANES];
        memcpy(row, data + step * sizeof row, sizeof row);
        for (int lane = 0; lane < LANES; lane++) {
            words[lane] += row[lane];
            weighted[lane] += words[lane];
        }
    }
    Sums sums = {0, 0};
    for (uint64_t lane = 0; lane < LANES; lane++) {
        sums.words += words[lane];
        /* A word of this lane is `lane` words nearer to the end than the step's first. */
        sums.weighted += (uint64_t)weighted[lane] * LANES - lane * words[lane];
    }
    return sums;
}

/* Modulo 65535, which stands for 0 unless the sum is 0. */
static uint64_t reduced(uint64_t sum) { return sum ? (sum - 1) % 65535 + 1 : 0; }

static uint32_t swapped(uint64_t sum) {
    uint32_t rest = (uint32_t)reduced(sum);
    uint16_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1);
    return first ? (rest >> 8 | rest << 8) & 0xffff : rest;
}

static uint32_t fletcher32(const uint8_t *data, size_t length) {
    uint64_t words = 0, weighted = 0;
    size_t left = length / 2;
    while (left >= LANES) {
        size_t steps = left / LANES < STEPS ? left / LANES : STEPS;
        Sums block = sum_block(data, steps);
        weighted = reduced(weighted + words * (steps * LANES) + block.weighted);
        words = reduced(words + block.words);
        data += steps * LANES * 2;
        left -= steps * LANES;
    }
    for (; left; left--, data += 2) {
        uint16_t word;
        memcpy(&word, data, 2);
        words += word;
        weighted += words;
    }
    return swapped(weighted) << 16 | swapped(words);
}

static void seal_chunk(const Py_buffer *data, const Py_buffer *chunk) {
    uint8_t *end = (uint8_t *)chunk->buf + data->len;
    memcpy(chunk->buf, data->buf, data->len);
    uint32_t checksum = fletcher32(chunk->buf, data->len);
    for (int i = 0; i < 4; i++) end[i] = (uint8_t)(checksum >> 8 * i);
}

PyDoc_STRVAR(seal_doc,
             "seal(data, chunk)\n--\n\n"
             "Copy data to chunk, and its checksum behind it: what HDF5's filter Fletcher-32 makes of it.\n\n"
             "Both are contiguous buffers; data has an even number of bytes, chunk is writable and has 4 more. Raises ValueError\n"
             "when they do not fit each other.");

static PyObject *seal(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer data, chunk;
    if (!PyArg_ParseTuple(arguments, "y*w*", &data, &chunk)) return NULL;
    int fits = data.len % 2 == 0 && chunk.len - 4 == data.len;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        seal_chunk(&data, &chunk);
        Py_END_ALLOW_THREADS;
    } else {
        PyErr_Format(PyExc_ValueError, "seal was given %zd bytes of data, and a chunk of %zd", data.len, chunk.len);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&chunk);
    if (!fits) return NULL;
    Py_RETURN_NONE;
}

static int sealed(const Py_buffer *data, const Py_buffer *trailer) {
    uint32_t checksum = fletcher32(data->buf, data->len);
    const uint8_t *end = trailer->buf;
    for (int i = 0; i < 4; i++)
        if (end[i] != (uint8_t)(checksum >> 8 * i)) return 0;
    return 1;
}

PyDoc_STRVAR(matches_doc,
             "matches(data, trailer)\n--\n\n"
             "Return whether a chunk's trailer is the checksum of its data: what seal would have put behind it.\n\n"
             "Both are contiguous buffers; data has an even number of bytes, trailer has 4. Raises ValueError for other lengths.");

static PyObject *matches(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer data, trailer;
    int same = 0;
    if (!PyArg_ParseTuple(arguments, "y*y*", &data, &trailer)) return NULL;
    int fits = data.len % 2 == 0 && trailer.len == 4;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        same = sealed(&data, &trailer);
        Py_END_ALLOW_THREADS;
    } else {
        PyErr_Format(PyExc_ValueError, "matches was given %zd bytes of data, and a trailer of %zd", data.len, trailer.len);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&trailer);
    return fits ? PyBool_FromLong(same) : NULL;
}

static PyMethodDef methods[] = {{"seal", seal, METH_VARARGS, seal_doc}, {"matches", matches, METH_VARARGS, matches_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_fletcher", "HDF5's checksum.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__fletcher(void) { return PyModule_Create(&definition); }
