/* The floor: a program on a Port that gives back the bytes it reads. */
#include <unistd.h>

int main(void)
{
    static char bytes[65536];
    ssize_t size;
    while ((size = read(0, bytes, sizeof bytes)) > 0) {
        for (ssize_t at = 0, done; at < size; at += done) {
            if ((done = write(1, bytes + at, (size_t)(size - at))) < 0) return 1;
        }
    }
    return 0;
}
