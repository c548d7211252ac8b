/* Sums of arcsinh(pixel / scale) and of its square, channel by channel.
 *
 * Pixels lie channel after channel, so a lane is a place within LANES pixels: lane l is of channel l modulo the number of
 * channels, whatever that number is, and a row of lanes is a loop that a compiler can vectorise. Each lane has its own sums, and
 * multiply-add is not contracted: the sums are the same bits on every processor and with vectors of any length.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "../shards/_arcsinh.h"

#define MAX_CHANNELS 64
#define LANES 16 /* pixels summed side by side */

/* Adds pixels to their lanes' sums; `length` is at most a row of lanes. */
INLINE void add_row(const float *restrict pixels, const float *restrict scale, double *restrict sums, double *restrict squares,
                    Py_ssize_t length) {
    for (Py_ssize_t lane = 0; lane < length; lane++) {
        double value = arcsinh(pixels[lane] / scale[lane]);
        sums[lane] += value;
        squares[lane] += value * value;
    }
}

VARIANTS static void add_all(const float *pixels, Py_ssize_t count, const float *scale, double *sums, double *squares, Py_ssize_t lanes) {
    for (; count >= lanes; count -= lanes, pixels += lanes) add_row(pixels, scale, sums, squares, lanes);
    add_row(pixels, scale, sums, squares, count);
}

static void moments_of(const float *pixels, Py_ssize_t count, const float *scale, Py_ssize_t channels, double *out) {
    float scales[LANES * MAX_CHANNELS] = {0};
    double sums[LANES * MAX_CHANNELS] = {0}, squares[LANES * MAX_CHANNELS] = {0};
    Py_ssize_t lanes = LANES * channels;
    for (Py_ssize_t lane = 0; lane < lanes; lane++) scales[lane] = scale[lane % channels];
    add_all(pixels, count, scales, sums, squares, lanes);
    memset(out, 0, 3 * channels * sizeof *out);
    for (Py_ssize_t lane = 0; lane < lanes; lane++) {
        out[channels + lane % channels] += sums[lane];
        out[2 * channels + lane % channels] += squares[lane];
    }
    for (Py_ssize_t channel = 0; channel < channels; channel++) out[channel] = (double)(count / channels);
}

static int unaligned(const Py_buffer *buffer, size_t item) { return (uintptr_t)buffer->buf % item != 0; }

/* Returns what is wrong with the arguments, or NULL. */
static const char *misuse(const Py_buffer *pixels, const Py_buffer *scale, const Py_buffer *out) {
    Py_ssize_t channels = scale->len / 4;
    if (scale->len % 4 || channels < 1 || channels > MAX_CHANNELS || unaligned(scale, 4)) return "an impossible number of channels";
    if (pixels->len % (channels * 4) || unaligned(pixels, 4)) return "pixels of another number of channels";
    if (out->len != 3 * channels * 8 || unaligned(out, 8)) return "room for another number of channels";
    return NULL;
}

PyDoc_STRVAR(moments_doc,
             "moments(pixels, scale, out)\n--\n\n"
             "Put number, sum and sum of squares of arcsinh(pixel / scale) into out, channel by channel.\n\n"
             "Contiguous buffers: pixels is float32, channels last; scale is float32, one a channel, 64 at most; out is float64 of shape\n"
             "(3, channels). A pixel that is not finite makes its channel's sums NaN. Raises ValueError when they do not fit each other.");

static PyObject *moments(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Py_buffer pixels, scale, out;
    if (!PyArg_ParseTuple(arguments, "y*y*w*", &pixels, &scale, &out)) return NULL;
    const char *mistake = misuse(&pixels, &scale, &out);
    if (mistake) {
        PyErr_Format(PyExc_ValueError, "moments was given %s", mistake);
    } else {
        Py_BEGIN_ALLOW_THREADS;
        moments_of(pixels.buf, pixels.len / 4, scale.buf, scale.len / 4, out.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&scale);
    PyBuffer_Release(&out);
    if (mistake) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"moments", moments, METH_VARARGS, moments_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_moments", "Moments of pixels.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__moments(void) { return PyModule_Create(&definition); }
