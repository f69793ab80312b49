/* A sender that is not the bottleneck: everything that goes over the wire stands in memory beforehand,
 * the bytes of the files not as a copy but where the kernel has them.
 *
 *   sender dicom|copy PORT ASSOCIATIONS MAX_PDU CALLED_AE < list of files, one per line
 *
 * dicom: C-STORE over associations that are negotiated before the clock starts; P-DATA-TF PDUs as large as the peer
 *        accepts, MAX_PDU at most; one sendmsg() per instance, then its C-STORE-RSP is read; each status must be 0x0000.
 * copy:  the same files to `limit`: length, bytes, one byte of acknowledgement.
 *
 * Each association is a process and gets a contiguous part of the list. All start at one signal. Prints one line of JSON;
 * seconds run from the first byte sent to the last response read, which was at `ended` by the monotonic clock;
 * cpu_seconds is what the sending processes used of it.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONTEXTS = 64, UID_BYTES = 65, MAX_PIECES = 1024 /* the kernel's limit, IOV_MAX */ };

/* The pieces of one message, in order. */
struct instance {
    struct iovec *pieces;
    size_t count;
};

struct context {
    char sop_class[UID_BYTES];
    char transfer_syntax[UID_BYTES];
};

struct part10 {
    uint8_t *bytes;
    size_t size;
    size_t data_set; /* offset */
    char sop_class[UID_BYTES];
    char sop_instance[UID_BYTES];
    char transfer_syntax[UID_BYTES];
};

struct outcome {
    double started, ended, cpu_seconds;
    uint64_t instances, bytes;
};

struct buffer {
    uint8_t *bytes;
    size_t used, room;
};

static struct context contexts[MAX_CONTEXTS];
static int context_count;

static void die(const char *what) {
    fprintf(stderr, "sender: %s\n", what);
    exit(1);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Bytes that grow. */

static void need(struct buffer *b, size_t more) {
    if (b->used + more <= b->room)
        return;
    b->room = (b->used + more) * 2;
    b->bytes = realloc(b->bytes, b->room);
    if (b->bytes == NULL)
        fail("realloc");
}

static void put(struct buffer *b, const void *bytes, size_t size) {
    need(b, size);
    memcpy(b->bytes + b->used, bytes, size);
    b->used += size;
}

static void put8(struct buffer *b, unsigned v) {
    uint8_t byte = (uint8_t)v;
    put(b, &byte, 1);
}

static void put16be(struct buffer *b, unsigned v) {
    uint16_t x = htobe16((uint16_t)v);
    put(b, &x, 2);
}

static void put32be(struct buffer *b, size_t v) {
    uint32_t x = htobe32((uint32_t)v);
    put(b, &x, 4);
}

static void put16le(struct buffer *b, unsigned v) {
    uint16_t x = htole16((uint16_t)v);
    put(b, &x, 2);
}

static void put32le(struct buffer *b, size_t v) {
    uint32_t x = htole32((uint32_t)v);
    put(b, &x, 4);
}

/* The socket. */

static void send_all(int to, const uint8_t *bytes, size_t size) {
    while (size > 0) {
        ssize_t sent = send(to, bytes, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            fail("send");
        bytes += sent;
        size -= (size_t)sent;
    }
}

/* Sends the pieces, which are changed on the way when the socket does not take all at once. */
static void send_instance(int to, const struct instance *instance) {
    struct iovec *next = instance->pieces;
    size_t pieces = instance->count;
    while (pieces > 0) {
        struct msghdr message = {.msg_iov = next, .msg_iovlen = pieces < MAX_PIECES ? pieces : MAX_PIECES};
        ssize_t sent = sendmsg(to, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            fail("sendmsg");
        for (; pieces > 0 && (size_t)sent >= next->iov_len; next++, pieces--)
            sent -= (ssize_t)next->iov_len;
        if (pieces > 0) {
            next->iov_base = (uint8_t *)next->iov_base + sent;
            next->iov_len -= (size_t)sent;
        }
    }
}

static void read_exactly(int from, void *to, size_t size) {
    size_t done = 0;
    while (done < size) {
        ssize_t got = recv(from, (char *)to + done, size - done, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            fail("recv");
        if (got == 0)
            die("the receiver closed the connection");
        done += (size_t)got;
    }
}

static int connect_to(int port) {
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (s < 0)
        fail("socket");
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    return s;
}

/* Files (PS3.10 7.1: preamble, prefix, group 2 in explicit VR little endian). */

static void copy_uid(char *to, const uint8_t *from, size_t size) {
    if (size >= UID_BYTES)
        die("a UID is too long");
    memcpy(to, from, size);
    to[size] = 0;
}

static struct part10 load(const char *path) {
    struct part10 f = {0};
    struct stat status;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &status) < 0)
        fail(path);
    f.size = (size_t)status.st_size;
    f.bytes = mmap(NULL, f.size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (f.bytes == MAP_FAILED)
        fail(path);
    close(file);
    if (f.size < 144 || memcmp(f.bytes + 128, "DICM", 4) != 0)
        die("not a DICOM file");
    uint32_t group_length;
    memcpy(&group_length, f.bytes + 140, 4);
    f.data_set = 144 + le32toh(group_length);
    if (f.data_set > f.size)
        die("broken file meta information");
    for (size_t at = 144; at + 8 <= f.data_set;) {
        const uint8_t *e = f.bytes + at;
        unsigned element = (unsigned)e[2] | (unsigned)e[3] << 8;
        size_t header = 8, size = (size_t)e[6] | (size_t)e[7] << 8;
        if (memcmp(e + 4, "OB", 2) == 0 || memcmp(e + 4, "UN", 2) == 0) {
            header = 12;
            size = (size_t)e[8] | (size_t)e[9] << 8 | (size_t)e[10] << 16 | (size_t)e[11] << 24;
        }
        if (at + header + size > f.data_set)
            die("broken file meta information");
        if (element == 0x0002)
            copy_uid(f.sop_class, e + header, size);
        if (element == 0x0003)
            copy_uid(f.sop_instance, e + header, size);
        if (element == 0x0010)
            copy_uid(f.transfer_syntax, e + header, size);
        at += header + size;
    }
    return f;
}

static void unload(struct part10 *f) { munmap(f->bytes, f->size); }

/* The association (PS3.8 9.3). */

static int context_id(const struct part10 *f) {
    for (int i = 0; i < context_count; i++)
        if (strcmp(contexts[i].sop_class, f->sop_class) == 0 &&
            strcmp(contexts[i].transfer_syntax, f->transfer_syntax) == 0)
            return 2 * i + 1;
    if (context_count == MAX_CONTEXTS)
        die("too many presentation contexts");
    strcpy(contexts[context_count].sop_class, f->sop_class);
    strcpy(contexts[context_count].transfer_syntax, f->transfer_syntax);
    return 2 * context_count++ + 1;
}

static void put_item(struct buffer *b, unsigned type, const void *bytes, size_t size) {
    put8(b, type);
    put8(b, 0);
    put16be(b, (unsigned)size);
    put(b, bytes, size);
}

static void put_uid_item(struct buffer *b, unsigned type, const char *uid) { put_item(b, type, uid, strlen(uid)); }

static void put_ae(struct buffer *b, const char *ae) {
    char padded[17];
    snprintf(padded, sizeof padded, "%-16.16s", ae);
    put(b, padded, 16);
}

static size_t read_pdu(int s, struct buffer *b, unsigned *type) {
    uint8_t header[6];
    uint32_t size;
    read_exactly(s, header, 6);
    memcpy(&size, header + 2, 4);
    size = be32toh(size);
    b->used = 0;
    need(b, size);
    read_exactly(s, b->bytes, size);
    *type = header[0];
    return size;
}

/* Returns the maximum length that the peer accepts (PS3.8 D.1), 0 for no limit. */
static size_t accepted_pdu(const uint8_t *body, size_t size) {
    size_t max_pdu = 0;
    for (size_t at = 68; at + 4 <= size;) {
        size_t length = (size_t)body[at + 2] << 8 | body[at + 3];
        if (body[at] == 0x21 && body[at + 6] != 0)
            die("a presentation context was not accepted");
        if (body[at] == 0x50)
            for (size_t sub = at + 4; sub + 4 <= at + 4 + length;) {
                size_t sub_length = (size_t)body[sub + 2] << 8 | body[sub + 3];
                if (body[sub] == 0x51) {
                    uint32_t value;
                    memcpy(&value, body + sub + 4, 4);
                    max_pdu = be32toh(value);
                }
                sub += 4 + sub_length;
            }
        at += 4 + length;
    }
    return max_pdu;
}

static size_t associate(int s, const char *called) {
    struct buffer body = {0}, pdu = {0}, item = {0};
    unsigned type;
    uint32_t own_max = htobe32(16384);
    put16be(&body, 1);
    put16be(&body, 0);
    put_ae(&body, called);
    put_ae(&body, "BENCH");
    for (int i = 0; i < 32; i++)
        put8(&body, 0);
    put_uid_item(&body, 0x10, "1.2.840.10008.3.1.1.1");
    for (int i = 0; i < context_count; i++) {
        item.used = 0;
        put32be(&item, (size_t)(2 * i + 1) << 24);
        put_uid_item(&item, 0x30, contexts[i].sop_class);
        put_uid_item(&item, 0x40, contexts[i].transfer_syntax);
        put_item(&body, 0x20, item.bytes, item.used);
    }
    item.used = 0;
    put_item(&item, 0x51, &own_max, 4);
    put_uid_item(&item, 0x52, "2.25.230127420271870211318420935527461321412");
    put_item(&body, 0x50, item.bytes, item.used);
    put8(&pdu, 1);
    put8(&pdu, 0);
    put32be(&pdu, body.used);
    put(&pdu, body.bytes, body.used);
    send_all(s, pdu.bytes, pdu.used);
    size_t size = read_pdu(s, &body, &type);
    if (type != 2)
        die("the association was not accepted");
    return accepted_pdu(body.bytes, size);
}

static void release(int s) {
    static const uint8_t request[10] = {5, 0, 0, 0, 0, 4};
    struct buffer body = {0};
    unsigned type;
    send_all(s, request, sizeof request);
    read_pdu(s, &body, &type);
    if (type != 6)
        die("the release was not answered");
}

/* C-STORE (PS3.7 9.3.1). */

static void put_command_uid(struct buffer *b, unsigned element, const char *uid) {
    size_t size = strlen(uid);
    put16le(b, 0);
    put16le(b, element);
    put32le(b, size + size % 2);
    put(b, uid, size);
    if (size % 2)
        put8(b, 0);
}

static void put_command_us(struct buffer *b, unsigned element, unsigned value) {
    put16le(b, 0);
    put16le(b, element);
    put32le(b, 2);
    put16le(b, value);
}

static void put_pdv_header(struct buffer *b, int context, unsigned control, size_t size) {
    put8(b, 4);
    put8(b, 0);
    put32be(b, size + 6);
    put32be(b, size + 2);
    put8(b, (unsigned)context);
    put8(b, control);
}

static void add_piece(struct instance *to, const uint8_t *bytes, size_t size) {
    to->pieces[to->count++] = (struct iovec){(void *)(uintptr_t)bytes, size};
}

static struct instance prepare_store(const struct part10 *f, int context, unsigned message_id, size_t max_pdu) {
    struct buffer command = {0}, headers = {0};
    size_t left = f->size - f->data_set, piece = max_pdu - 6;
    const uint8_t *from = f->bytes + f->data_set;
    put_command_uid(&command, 0x0002, f->sop_class);
    put_command_us(&command, 0x0100, 0x0001);
    put_command_us(&command, 0x0110, message_id);
    put_command_us(&command, 0x0700, 0);
    put_command_us(&command, 0x0800, 1);
    put_command_uid(&command, 0x1000, f->sop_instance);
    struct buffer whole = {0};
    put16le(&whole, 0);
    put16le(&whole, 0);
    put32le(&whole, 4);
    put32le(&whole, command.used);
    put(&whole, command.bytes, command.used);
    size_t pdus = left / piece + 2, used = 0;
    struct instance made = {.pieces = calloc(2 * pdus, sizeof *made.pieces)};
    if (made.pieces == NULL)
        fail("calloc");
    need(&headers, pdus * 12 + whole.used); /* once: the pieces point into it */
    put_pdv_header(&headers, context, 3, whole.used);
    put(&headers, whole.bytes, whole.used);
    for (unsigned last = 0; !last; from += piece, left -= piece) {
        last = left <= piece ? 2 : 0;
        if (last)
            piece = left;
        put_pdv_header(&headers, context, last, piece);
        add_piece(&made, headers.bytes + used, headers.used - used);
        add_piece(&made, from, piece);
        used = headers.used;
    }
    free(command.bytes);
    free(whole.bytes);
    return made;
}

static unsigned status_of(const uint8_t *set, size_t size) {
    for (size_t at = 0; at + 8 <= size;) {
        uint32_t length;
        memcpy(&length, set + at + 4, 4);
        length = le32toh(length);
        if (set[at] == 0 && set[at + 1] == 0 && set[at + 2] == 0 && set[at + 3] == 9 && length == 2)
            return (unsigned)set[at + 8] | (unsigned)set[at + 9] << 8;
        at += 8 + length;
    }
    die("a response has no status");
    return 0;
}

static void read_store_response(int s, struct buffer *pdu, struct buffer *set) {
    set->used = 0;
    for (;;) {
        unsigned type;
        size_t size = read_pdu(s, pdu, &type);
        if (type != 4)
            die("the receiver aborted or sent something else than a response");
        for (size_t at = 0; at + 6 <= size;) {
            uint32_t length;
            memcpy(&length, pdu->bytes + at, 4);
            length = be32toh(length);
            if (length < 2 || at + 4 + length > size)
                die("a response is broken");
            put(set, pdu->bytes + at + 6, length - 2);
            if (pdu->bytes[at + 5] & 2) {
                unsigned status = status_of(set->bytes, set->used);
                if (status != 0) {
                    fprintf(stderr, "sender: status %04x\n", status);
                    exit(1);
                }
                return;
            }
            at += 4 + length;
        }
    }
}

static struct instance prepare_copy(const struct part10 *f) {
    struct instance made = {.pieces = calloc(2, sizeof *made.pieces)};
    struct buffer header = {0};
    uint64_t size = htole64(f->size);
    if (made.pieces == NULL)
        fail("calloc");
    put(&header, &size, 8);
    add_piece(&made, header.bytes, header.used);
    add_piece(&made, f->bytes, f->size);
    return made;
}

/* One association, in its own process. */
static struct outcome transfer(int dicom, int port, const char *called, size_t max_pdu, char **paths, size_t count,
                               int ready, int go) {
    struct instance *instances = calloc(count, sizeof *instances);
    struct buffer pdu = {0}, set = {0};
    struct outcome outcome = {.instances = count};
    char signal;
    if (instances == NULL)
        fail("calloc");
    int s = connect_to(port);
    if (dicom) {
        for (size_t i = 0; i < count; i++) {
            struct part10 f = load(paths[i]);
            context_id(&f);
            unload(&f);
        }
        size_t accepted = associate(s, called);
        if (accepted != 0 && accepted < max_pdu)
            max_pdu = accepted;
    }
    for (size_t i = 0; i < count; i++) {
        struct part10 f = load(paths[i]);
        instances[i] = dicom ? prepare_store(&f, context_id(&f), (unsigned)(i % 65535 + 1), max_pdu) : prepare_copy(&f);
        outcome.bytes += f.size;
    }
    if (write(ready, "", 1) != 1)
        fail("write");
    close(ready); /* so that the parent notices when another one ends early */
    if (read(go, &signal, 1) != 1)
        die("the start signal did not come");
    double cpu_before = cpu_seconds();
    outcome.started = now();
    for (size_t i = 0; i < count; i++) {
        send_instance(s, &instances[i]);
        if (dicom)
            read_store_response(s, &pdu, &set);
        else
            read_exactly(s, &signal, 1);
    }
    outcome.ended = now();
    outcome.cpu_seconds = cpu_seconds() - cpu_before;
    if (dicom)
        release(s);
    close(s);
    return outcome;
}

static size_t read_list(char ***paths) {
    size_t count = 0, room = 1024, size = 0;
    char *line = NULL;
    ssize_t length;
    *paths = malloc(room * sizeof **paths);
    while ((length = getline(&line, &size, stdin)) > 0) {
        if (line[length - 1] == '\n')
            line[length - 1] = 0;
        if (count == room)
            *paths = realloc(*paths, (room *= 2) * sizeof **paths);
        if (*paths == NULL)
            fail("realloc");
        (*paths)[count++] = strdup(line);
    }
    free(line);
    return count;
}

int main(int argc, char **argv) {
    char **paths;
    int ready[2], go[2], results[2], status;
    char signal;
    if (argc != 6) {
        fprintf(stderr, "usage: sender dicom|copy PORT ASSOCIATIONS MAX_PDU CALLED_AE < files\n");
        return 2;
    }
    int dicom = strcmp(argv[1], "dicom") == 0, port = atoi(argv[2]), associations = atoi(argv[3]);
    size_t max_pdu = (size_t)atol(argv[4]), count = read_list(&paths);
    if (associations < 1 || count < (size_t)associations || max_pdu < 4096)
        die("nothing to do");
    if (pipe(ready) < 0 || pipe(go) < 0 || pipe(results) < 0)
        fail("pipe");
    for (int i = 0; i < associations; i++) {
        size_t first = count * (size_t)i / (size_t)associations, next = count * (size_t)(i + 1) / (size_t)associations;
        pid_t child = fork();
        if (child < 0)
            fail("fork");
        if (child == 0) {
            close(ready[0]);
            close(go[1]);
            struct outcome outcome =
                transfer(dicom, port, argv[5], max_pdu, paths + first, next - first, ready[1], go[0]);
            if (write(results[1], &outcome, sizeof outcome) != sizeof outcome)
                fail("write");
            _exit(0);
        }
    }
    close(ready[1]);
    close(results[1]);
    for (int i = 0; i < associations; i++)
        if (read(ready[0], &signal, 1) != 1)
            die("an association failed before the start");
    for (int i = 0; i < associations; i++)
        if (write(go[1], "", 1) != 1)
            fail("write");
    struct outcome all = {0}, one;
    for (int i = 0; i < associations; i++) {
        if (read(results[0], &one, sizeof one) != sizeof one)
            die("an association failed");
        if (i == 0 || one.started < all.started)
            all.started = one.started;
        if (one.ended > all.ended)
            all.ended = one.ended;
        all.instances += one.instances;
        all.bytes += one.bytes;
        all.cpu_seconds += one.cpu_seconds;
    }
    for (int i = 0; i < associations; i++)
        if (wait(&status) < 0 || status != 0)
            die("an association failed");
    printf("{\"instances\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"ended\": %.6f, \"cpu_seconds\": %.6f}\n",
           (unsigned long long)all.instances, (unsigned long long)all.bytes, all.ended - all.started, all.ended,
           all.cpu_seconds);
    return 0;
}
