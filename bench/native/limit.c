/* The limit of what a receiver can reach: a plain copy from sockets to files.
 *
 *   limit PORT FOLDER [--fsync] [--null]
 *
 * One process per connection. A message is a length (8 bytes, little endian) and as many bytes, which go to a file of
 * their own as they come; then one byte acknowledges them. --fsync makes each file durable before its acknowledgement.
 * --null throws the bytes away: what then remains is the speed of the sender.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER_BYTES = 256 * 1024 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Returns 0 at an orderly end before the first byte. */
static int read_exactly(int from, void *to, size_t size) {
    size_t done = 0;
    while (done < size) {
        ssize_t got = recv(from, (char *)to + done, size - done, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail("recv");
        if (got == 0) {
            if (done == 0)
                return 0;
            fprintf(stderr, "connection ended within a message\n");
            exit(1);
        }
        done += (size_t)got;
    }
    return 1;
}

static void write_exactly(int to, const char *from, size_t size) {
    while (size > 0) {
        ssize_t put = write(to, from, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            fail("write");
        from += put;
        size -= (size_t)put;
    }
}

static void serve(int connection, const char *folder, int sync, int null) {
    char *buffer = malloc(BUFFER_BYTES);
    char path[4096];
    uint64_t left;
    if (buffer == NULL)
        fail("malloc");
    for (unsigned long number = 0; read_exactly(connection, &left, sizeof left); number++) {
        int file = -1;
        left = le64toh(left);
        if (!null) {
            snprintf(path, sizeof path, "%s/%d-%lu.dcm", folder, (int)getpid(), number);
            file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
            if (file < 0)
                fail(path);
        }
        while (left > 0) {
            ssize_t got = recv(connection, buffer, left < BUFFER_BYTES ? (size_t)left : BUFFER_BYTES, 0);
            if (got < 0 && errno == EINTR)
                continue;
            if (got <= 0)
                fail("recv");
            if (!null)
                write_exactly(file, buffer, (size_t)got);
            left -= (uint64_t)got;
        }
        if (!null) {
            if (sync && fsync(file) < 0)
                fail("fsync");
            if (close(file) < 0)
                fail("close");
        }
        write_exactly(connection, "", 1);
    }
    free(buffer);
}

int main(int argc, char **argv) {
    int sync = 0, null = 0, one = 1;
    if (argc < 3) {
        fprintf(stderr, "usage: limit PORT FOLDER [--fsync] [--null]\n");
        return 2;
    }
    for (int i = 3; i < argc; i++) {
        sync |= strcmp(argv[i], "--fsync") == 0;
        null |= strcmp(argv[i], "--null") == 0;
    }
    signal(SIGCHLD, SIG_IGN);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        fail("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (listen(listener, 64) < 0)
        fail("listen");
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0 && errno == EINTR)
            continue;
        if (connection < 0)
            fail("accept");
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child == 0) {
            close(listener);
            serve(connection, argv[2], sync, null);
            exit(0);
        }
        close(connection);
    }
}
