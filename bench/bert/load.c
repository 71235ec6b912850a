/* One client of BERT-RPC that sends the same frame again and again, and waits for each answer:
   load PORT CALLS each|one < FRAME
   prints the calls a second. With "each" every call has a connection of its own. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint8_t frame[65536], answer[65536];

static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int sock = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (sock < 0 || connect(sock, (struct sockaddr *)&to, sizeof to)) return -1;
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return sock;
}

static int ask(int sock, ssize_t size)
{
    if (send(sock, frame, (size_t)size, 0) != size) return -1;
    ssize_t have = 0, more, wanted = 4;
    while (have < wanted) {
        if ((more = recv(sock, answer + have, sizeof answer - (size_t)have, 0)) <= 0) return -1;
        have += more;
        if (have >= 4) wanted = 4 + (answer[0] << 24 | answer[1] << 16 | answer[2] << 8 | answer[3]);
    }
    return 0;
}

int main(int count, char **arguments)
{
    if (count != 4) return 2;
    int port = atoi(arguments[1]), calls = atoi(arguments[2]), each = !strcmp(arguments[3], "each"), sock = -1;
    ssize_t size = read(0, frame, sizeof frame);
    struct timespec began, ended;
    if (!each && (sock = dial(port)) < 0) return 1;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int i = 0; i < calls; i++) {
        if (each && (sock = dial(port)) < 0) return 1;
        if (ask(sock, size)) return 1;
        if (each) close(sock);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    double seconds = (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9;
    printf("%.0f\n", calls / seconds);
    return 0;
}
