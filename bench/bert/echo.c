/* The floor: a server that sends back what comes, with a thread for each connection. It says where it listens. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static void *serve(void *given)
{
    uint8_t bytes[65536];
    int sock = (int)(intptr_t)given;
    for (ssize_t size; (size = recv(sock, bytes, sizeof bytes, 0)) > 0;) {
        if (send(sock, bytes, (size_t)size, MSG_NOSIGNAL) != size) break;
    }
    close(sock);
    return NULL;
}

int main(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 1024)) return 1;
    if (getsockname(listener, (struct sockaddr *)&at, &size)) return 1;
    printf("ready tcp 127.0.0.1 %d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (int sock; (sock = accept(listener, NULL, NULL)) >= 0;) {
        pthread_t thread;
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)sock)) return 1;
        pthread_detach(thread);
    }
    return 1;
}
