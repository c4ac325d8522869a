/* Compresses stdin to stdout as one zstd frame, as Spider does with large graph outputs. */
#include <stdio.h>
#include <stdlib.h>
#include <zstd.h>

int main(void)
{
    size_t room = 1 << 24;
    char *input = malloc(room);
    char *output = malloc(ZSTD_compressBound(room));
    size_t size;
    if (input == NULL || output == NULL) {
        return 1;
    }
    size = ZSTD_compress(output, ZSTD_compressBound(room), input, fread(input, 1, room, stdin), 3);
    if (ZSTD_isError(size) || fwrite(output, 1, size, stdout) != size) {
        return 1;
    }
    free(input);
    free(output);
    return 0;
}
