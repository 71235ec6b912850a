/* The floor: a program on a Port that gives back the bytes it reads. With "in" it answers each frame with an empty one,
   with "out" with one of 20 MB. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int put(const uint8_t *bytes, size_t size)
{
    for (ssize_t done; size; bytes += done, size -= (size_t)done) {
        if ((done = write(1, bytes, size)) < 0) return -1;
    }
    return 0;
}

static int echo(void)
{
    static uint8_t bytes[65536];
    ssize_t size;
    while ((size = read(0, bytes, sizeof bytes)) > 0) {
        if (put(bytes, (size_t)size) < 0) return 1;
    }
    return 0;
}

/* There is one frame under way at a time. */
static int answer_with(uint32_t length)
{
    static uint8_t bytes[65536];
    uint8_t *frame = calloc(1, 4 + (size_t)length);
    if (!frame) return 1;
    for (int i = 0; i < 4; i++) frame[i] = (uint8_t)(length >> (24 - 8 * i));
    ssize_t size;
    for (size_t left = 0; (size = read(0, bytes, sizeof bytes)) > 0;) {
        uint8_t *at = bytes;
        if (!left) {
            if (size < 4) return 1;
            left = (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3];
            size -= 4;
        }
        left -= (size_t)size;
        if (!left && put(frame, 4 + (size_t)length) < 0) return 1;
    }
    return 0;
}

int main(int count, char **arguments)
{
    if (count == 1) return echo();
    return answer_with(strcmp(arguments[1], "out") ? 0 : 20000000);
}
