/* Put before a package's source with `-include`: its allocations are those of the driver, which can refuse them. */
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif
void *starved_malloc(size_t size);
void *starved_calloc(size_t count, size_t size);
void *starved_realloc(void *pointer, size_t size);
#ifdef __cplusplus
}
#endif

#define malloc starved_malloc
#define calloc starved_calloc
#define realloc starved_realloc
