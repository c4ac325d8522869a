/* A package whose every task returns its inputs. It uses the raw ABI, so that it costs
 * one malloc and one memcpy. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t major, minor, patch;
} Version;

typedef struct {
    const void *pointer;
    size_t length;
} View;

typedef struct {
    bool is_error;
    uint8_t *pointer;
    size_t length;
} Result;

Version __spider_tdl_package_get_version(void) {
    return (Version){0, 1, 0};
}

View __spider_tdl_package_get_name(void) {
    return (View){"echo_0000", sizeof "echo_0000" - 1};
}

Result __spider_tdl_package_execute(View task_name, View raw_ctx, View raw_inputs) {
    (void)task_name;
    (void)raw_ctx;
    uint8_t *outputs = malloc(raw_inputs.length);
    if (outputs == NULL) {
        abort();
    }
    memcpy(outputs, raw_inputs.pointer, raw_inputs.length);
    return (Result){false, outputs, raw_inputs.length};
}
