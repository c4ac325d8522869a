/*
 * Arithmetic on vectors of complex numbers: structs within a list within a struct.
 *
 *     struct Complex { re: double, im: double }
 *     struct Vector { elements: List<Complex> }
 *
 *     cc -shared -fPIC -o complex/libcomplex.so complex.c
 */
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"

typedef struct number {
    double re;
    double im;
} number;

typedef struct vector {
    number *elements;
    size_t size;
} vector;

static vector read_vector(spider_task *task)
{
    vector value;
    spider_read_struct(task->in, "elements");
    value.size = spider_read_list(task->in);
    value.elements = (number *)spider_alloc(task, value.size, sizeof *value.elements);
    for (size_t i = 0; spider_ok(task) && i < value.size; i++) {
        spider_read_struct(task->in, "re, im");
        value.elements[i].re = spider_read_double(task->in);
        value.elements[i].im = spider_read_double(task->in);
    }
    return value;
}

static void write_number(spider_task *task, number value)
{
    spider_write_struct(task->out, "re, im");
    spider_write_double(task->out, value.re);
    spider_write_double(task->out, value.im);
}

static number sum(number a, number b)
{
    number value = {a.re + b.re, a.im + b.im};
    return value;
}

static number difference(number a, number b)
{
    number value = {a.re - b.re, a.im - b.im};
    return value;
}

static number product(number a, number b)
{
    number value = {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
    return value;
}

/* Reads both arguments. False: the task has failed. */
static bool read_two(spider_task *task, vector *a, vector *b)
{
    *a = read_vector(task);
    *b = read_vector(task);
    if (spider_ready(task) && a->size != b->size) {
        spider_fail(task, SPIDER_ERROR_EXECUTION, "length mismatch: the vectors have %zu and %zu elements", a->size,
                    b->size);
    }
    return spider_ok(task);
}

static inline void each(spider_task *task, number (*operation)(number, number))
{
    vector a;
    vector b;
    if (!read_two(task, &a, &b)) {
        return;
    }
    spider_write_struct(task->out, "elements");
    spider_write_list(task->out, a.size);
    for (size_t i = 0; i < a.size; i++) {
        write_number(task, operation(a.elements[i], b.elements[i]));
    }
}

static void add(spider_task *task)
{
    each(task, sum);
}

static void sub(spider_task *task)
{
    each(task, difference);
}

/* The sum of the products, without conjugation. */
static void dot_product(spider_task *task)
{
    number total = {0, 0};
    vector a;
    vector b;
    if (!read_two(task, &a, &b)) {
        return;
    }
    for (size_t i = 0; i < a.size; i++) {
        total = sum(total, product(a.elements[i], b.elements[i]));
    }
    write_number(task, total);
}

static void cross_product(spider_task *task)
{
    vector a = read_vector(task);
    vector b = read_vector(task);
    if (!spider_ready(task)) {
        return;
    }
    if (a.size != 3 || b.size != 3) {
        spider_fail(task, SPIDER_ERROR_EXECUTION,
                    "length mismatch: a cross product needs vectors of length 3, not %zu and %zu", a.size, b.size);
        return;
    }
    spider_write_struct(task->out, "elements");
    spider_write_list(task->out, 3);
    for (size_t i = 0; i < 3; i++) {
        size_t j = (i + 1) % 3;
        size_t k = (i + 2) % 3;
        write_number(task, difference(product(a.elements[j], b.elements[k]), product(a.elements[k], b.elements[j])));
    }
}

static void always_fail(spider_task *task)
{
    if (spider_ready(task)) {
        spider_fail(task, SPIDER_ERROR_CUSTOM, "this task always fails");
    }
}

SPIDER_TDL_PACKAGE("complex", NULL,
    {"complex::add", add},
    {"complex::sub", sub},
    {"complex::dot_product", dot_product},
    {"complex::cross_product", cross_product},
    {"complex::always_fail", always_fail});
