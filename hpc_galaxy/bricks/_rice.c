/* Rice tiles of a tile-compressed FITS image (FITS standard 4.0, section 10), straight into a plane of floats.
 *
 * The streams are hostile until proven otherwise: nothing outside of the buffers given is read or written, and a stream that
 * does not end exactly where its descriptor says is refused. Must be compiled without contraction of multiply-add, or pixels
 * differ in their last bit from those of other readers.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define RANDOMS 10000          /* length of the standard's table of random numbers (appendix I) */
#define ZERO_VALUE -2147483646 /* stands for a pixel of exactly 0 in SUBTRACTIVE_DITHER_2 */
#define MAX_SPLIT 25           /* a block with this many low bits holds its differences uncoded */

#define INLINE static inline __attribute__((always_inline))

typedef enum { FINE, SHORT, TRAILING, PADDING, SPLIT, OVERFLOW, OUTSIDE } Problem;

static const char *const PROBLEMS[] = {
    NULL,
    "its stream ends too early",
    "its stream goes on after its last pixel",
    "the bits that pad its last byte are not zero",
    "a block has an impossible number of low bits",
    "a difference has more than 32 bits",
    "its stream lies outside of the data",
};

static float randoms[RANDOMS];

static int fill_randoms(void) {
    double seed = 1;
    for (int i = 0; i < RANDOMS; i++) {
        double next = 16807.0 * seed;
        seed = next - 2147483647.0 * (int)(next / 2147483647.0);
        randoms[i] = (float)(seed / 2147483647.0);
    }
    return (int)seed == 1043618065; /* the standard's own check */
}

/* A stream of bits. `window` holds the next bits from the top, at least `ready` of them; beyond the end of the stream come zeros. */
typedef struct {
    const uint8_t *bytes;
    size_t length;
    size_t position; /* of the first byte that is not counted in `ready` */
    uint64_t window;
    unsigned ready;
} Bits;

INLINE uint64_t big_endian(const uint8_t *bytes) {
    uint64_t word = 0;
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    memcpy(&word, bytes, 8);
    return __builtin_bswap64(word);
#else
    for (int i = 0; i < 8; i++) word = word << 8 | bytes[i];
    return word;
#endif
}

INLINE int far_from_end(const Bits *bits) { return bits->position + 8 <= bits->length; }

/* Make 56 bits or more ready, where 8 bytes may be read. */
INLINE void refill_fast(Bits *bits) {
    bits->window |= big_endian(bits->bytes + bits->position) >> bits->ready;
    bits->position += (63 - bits->ready) >> 3;
    bits->ready |= 56;
}

INLINE void refill(Bits *bits) {
    if (far_from_end(bits)) {
        refill_fast(bits);
        return;
    }
    for (; bits->ready <= 56; bits->ready += 8, bits->position++)
        if (bits->position < bits->length) bits->window |= (uint64_t)bits->bytes[bits->position] << (56 - bits->ready);
}

/* Drop 0 to 63 bits that are ready. */
INLINE void drop(Bits *bits, unsigned count) {
    bits->window <<= count;
    bits->ready -= count;
}

INLINE int overrun(const Bits *bits) { return bits->position * 8 - bits->ready > bits->length * 8; }

/* One coded difference, however long, anywhere in the stream. */
static Problem one_difference(Bits *bits, unsigned split, uint32_t *coded) {
    uint64_t zeros = 0;
    for (refill(bits); bits->window >> 8 == 0; refill(bits)) {
        zeros += 56;
        drop(bits, 56);
        if (overrun(bits)) return SHORT;
    }
    unsigned more = (unsigned)__builtin_clzll(bits->window);
    zeros += more;
    drop(bits, more + 1);
    if (zeros >> (32 - split)) return OVERFLOW;
    refill(bits);
    *coded = (uint32_t)(zeros << split) | (uint32_t)(bits->window >> 1 >> (63 - split));
    drop(bits, split);
    return FINE;
}

INLINE uint32_t unfold(uint32_t coded) { return (coded >> 1) ^ (0 - (coded & 1)); }

/* A block of coded differences: four at a time as long as 56 bits hold them. */
INLINE Problem coded_block(Bits *shared, unsigned split, uint32_t *pixels, size_t count, uint32_t *last) {
    Bits bits = *shared;
    uint32_t value = *last;
    size_t i = 0;
    while (i < count) {
        if (i + 4 <= count && far_from_end(&bits)) {
            uint32_t coded[4];
            unsigned used = 0;
            refill_fast(&bits);
            uint64_t window = bits.window;
            for (int j = 0; j < 4; j++) {
                unsigned zeros = (unsigned)__builtin_clzll(window | 1);
                window = window << zeros << 1;
                coded[j] = (uint32_t)zeros << split | (uint32_t)(window >> 1 >> (63 - split));
                window <<= split;
                used += zeros + 1 + split;
            }
            if (used <= bits.ready) {
                bits.window = window;
                bits.ready -= used;
                for (int j = 0; j < 4; j++) pixels[i++] = value += unfold(coded[j]);
                continue;
            }
        }
        uint32_t coded;
        Bits copy = bits; /* whose address is taken, so that `bits` can stay in registers */
        Problem problem = one_difference(&copy, split, &coded);
        if (problem) return problem;
        bits = copy;
        pixels[i++] = value += unfold(coded);
    }
    *shared = bits;
    *last = value;
    return FINE;
}

INLINE void uncoded_block(Bits *bits, uint32_t *pixels, size_t count, uint32_t *last) {
    for (size_t i = 0; i < count; i++) {
        refill(bits);
        *last += unfold((uint32_t)(bits->window >> 32));
        drop(bits, 32);
        pixels[i] = *last;
    }
}

/* Where a stream of `length` bytes was read to its last pixel, is that its end? */
static Problem check_end(const Bits *bits) {
    size_t read = bits->position * 8 - bits->ready;
    unsigned padding = (unsigned)(bits->length * 8 - read);
    if (bits->length * 8 - read >= 8) return TRAILING;
    return bits->bytes[bits->length - 1] & ((1u << padding) - 1) ? PADDING : FINE;
}

static Problem decompress(const uint8_t *stream, size_t length, uint32_t *pixels, size_t count, size_t block) {
    if (length < 5) return SHORT;
    uint32_t last = (uint32_t)stream[0] << 24 | (uint32_t)stream[1] << 16 | (uint32_t)stream[2] << 8 | stream[3];
    Bits bits = {stream, length, 4, 0, 0};
    for (size_t i = 0, size; i < count; i += size) {
        size = count - i < block ? count - i : block;
        refill(&bits);
        unsigned code = (unsigned)(bits.window >> 59);
        drop(&bits, 5);
        Problem problem = FINE;
        if (code == 0)
            for (size_t j = 0; j < size; j++) pixels[i + j] = last;
        else if (code <= MAX_SPLIT)
            problem = coded_block(&bits, code - 1, pixels + i, size, &last);
        else if (code == MAX_SPLIT + 1)
            uncoded_block(&bits, pixels + i, size, &last);
        else
            problem = SPLIT;
        if (problem) return problem;
        if (overrun(&bits)) return SHORT;
    }
    return check_end(&bits);
}

/* The image, and what holds for all of its tiles. `method` is 0 without dither, otherwise the 1 or 2 of SUBTRACTIVE_DITHER. */
typedef struct {
    Py_ssize_t ny, nx, tile_ny, tile_nx, block, seed;
    int method;
    float *plane;
    uint32_t *pixels; /* room for one tile */
} Image;

/* What holds for one tile. A blank beyond 32 bits is none. */
typedef struct {
    const uint8_t *stream;
    size_t length;
    int64_t number, blank;
    double scale, zero;
} Tile;

INLINE void dequantise(const Image *image, const Tile *tile, const int32_t *in, const float *random, float *out, size_t count) {
    const double scale = tile->scale, zero = tile->zero;
    if (image->method)
        for (size_t i = 0; i < count; i++) out[i] = (float)(((double)in[i] - random[i] + 0.5) * scale + zero);
    else
        for (size_t i = 0; i < count; i++) out[i] = (float)(in[i] * scale + zero);
    const int has_blank = tile->blank == (int32_t)tile->blank;
    if (!has_blank && image->method != 2) return;
    const int32_t blank = has_blank ? (int32_t)tile->blank : ZERO_VALUE, exact = image->method == 2 ? ZERO_VALUE : blank;
    int special = 0;
    for (size_t i = 0; i < count; i++) special |= (in[i] == blank) | (in[i] == exact);
    if (!special) return;
    for (size_t i = 0; i < count; i++) {
        if (image->method == 2 && in[i] == ZERO_VALUE) out[i] = 0;
        if (has_blank && in[i] == blank) out[i] = NAN;
    }
}

static Problem decode_tile(const Image *image, const Tile *tile) {
    Py_ssize_t across = (image->nx - 1) / image->tile_nx + 1;
    Py_ssize_t y = tile->number / across * image->tile_ny, x = tile->number % across * image->tile_nx;
    size_t height = (size_t)Py_MIN(image->tile_ny, image->ny - y), width = (size_t)Py_MIN(image->tile_nx, image->nx - x);
    Problem problem = decompress(tile->stream, tile->length, image->pixels, height * width, (size_t)image->block);
    if (problem) return problem;
    size_t start = (size_t)((tile->number + image->seed - 1) % RANDOMS), next = (size_t)(int)(randoms[start] * 500);
    const int32_t *in = (const int32_t *)image->pixels;
    for (size_t row = 0; row < height; row++) {
        float *out = image->plane + ((size_t)y + row) * (size_t)image->nx + x;
        for (size_t done = 0, count; done < width; done += count, in += count) {
            count = Py_MIN(width - done, RANDOMS - next);
            dequantise(image, tile, in, randoms + next, out + done, count);
            next += count;
            if (next == RANDOMS) {
                start = (start + 1) % RANDOMS;
                next = (size_t)(int)(randoms[start] * 500);
            }
        }
    }
    return FINE;
}

/* Every number that the caller gives has to fit the buffers: a mistake there is a bug, not bad data. */
static const char *misuse(const Image *image, Py_ssize_t count, const Py_buffer *plane, const Py_buffer *columns) {
    if (image->ny < 1 || image->nx < 1 || image->tile_ny < 1 || image->tile_nx < 1) return "an empty image or tile";
    if (image->block < 1 || image->method < 0 || image->method > 2 || image->seed < 1) return "a block, method or seed out of range";
    if (image->ny > PY_SSIZE_T_MAX / 4 / image->nx || plane->len != image->ny * image->nx * 4) return "a plane of another size";
    if (columns[0].len != count * 8) return "arrays of different lengths";
    for (int i = 1; i < 6; i++)
        if (columns[i].len != columns[0].len) return "arrays of different lengths";
    Py_ssize_t tiles = ((image->nx - 1) / image->tile_nx + 1) * ((image->ny - 1) / image->tile_ny + 1);
    const int64_t *numbers = columns[0].buf;
    for (Py_ssize_t i = 0; i < count; i++)
        if (numbers[i] < 0 || numbers[i] >= tiles) return "a tile outside of the image";
    return NULL;
}

static Problem decode_all(Image *image, const Py_buffer *heap, const Py_buffer *columns, Py_ssize_t count, Py_ssize_t *at) {
    const int64_t *numbers = columns[0].buf, *offsets = columns[1].buf, *lengths = columns[2].buf, *blanks = columns[5].buf;
    const double *scales = columns[3].buf, *zeros = columns[4].buf;
    for (Py_ssize_t i = 0; i < count; i++) {
        *at = i;
        if (offsets[i] < 0 || lengths[i] < 0 || offsets[i] > heap->len || lengths[i] > heap->len - offsets[i]) return OUTSIDE;
        const uint8_t *stream = (const uint8_t *)heap->buf + offsets[i];
        Tile tile = {stream, (size_t)lengths[i], numbers[i], blanks[i], scales[i], zeros[i]};
        Problem problem = decode_tile(image, &tile);
        if (problem) return problem;
    }
    return FINE;
}

static PyObject *run(Image *image, const Py_buffer *heap, const Py_buffer *plane, const Py_buffer *columns) {
    Py_ssize_t count = columns[0].len / 8, at = 0;
    const char *mistake = misuse(image, count, plane, columns);
    if (mistake) return PyErr_Format(PyExc_ValueError, "decode was given %s", mistake);
    size_t height = (size_t)Py_MIN(image->tile_ny, image->ny), width = (size_t)Py_MIN(image->tile_nx, image->nx);
    image->plane = plane->buf;
    image->pixels = PyMem_Malloc(height * width * 4);
    if (!image->pixels) return PyErr_NoMemory();
    Problem problem;
    Py_BEGIN_ALLOW_THREADS;
    problem = decode_all(image, heap, columns, count, &at);
    Py_END_ALLOW_THREADS;
    PyMem_Free(image->pixels);
    if (!problem) Py_RETURN_NONE;
    return Py_BuildValue("ns", at, PROBLEMS[problem]);
}

PyDoc_STRVAR(decode_doc,
             "decode(heap, plane, columns, shape, tile, block, method, seed)\n--\n\n"
             "Decode tiles into a plane; None, or the first tile at fault as (its place in the columns, what is wrong).\n\n"
             "plane is a writable float32 buffer of shape (ny, nx); columns are six contiguous arrays of 8-byte items, an item a tile:\n"
             "number, offset into heap, length, scale, zero, blank (integers, but scale and zero: float64; a blank beyond 32 bits is none).\n"
             "shape is (ny, nx), tile the same of a whole tile. Raises ValueError when the arguments do not fit each other.");

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *arguments) {
    Image image = {0};
    Py_buffer heap, plane, columns[6];
    if (!PyArg_ParseTuple(arguments, "y*w*(y*y*y*y*y*y*)(nn)(nn)nin", &heap, &plane, &columns[0], &columns[1], &columns[2], &columns[3],
                          &columns[4], &columns[5], &image.ny, &image.nx, &image.tile_ny, &image.tile_nx, &image.block, &image.method,
                          &image.seed))
        return NULL;
    PyObject *answer = run(&image, &heap, &plane, columns);
    PyBuffer_Release(&heap);
    PyBuffer_Release(&plane);
    for (int i = 0; i < 6; i++) PyBuffer_Release(&columns[i]);
    return answer;
}

static PyMethodDef methods[] = {{"decode", decode, METH_VARARGS, decode_doc}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_rice", "Decoder of Rice tiles.", -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__rice(void) {
    if (!fill_randoms()) return PyErr_Format(PyExc_ImportError, "this compiler does not give the standard's random numbers");
    return PyModule_Create(&definition);
}
