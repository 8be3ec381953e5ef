/* Requests about contents: data.py, of what is plain. */

#include "hot.h"

#define READ_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
#define UPPER_FLAGS (O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

/* Data._is_as_read, of a live base file that is open. */
static bool is_as_read(Hot *self, PyObject *node, const struct stat *st) {
    PyObject *was = SLOT(self, node, version);
    bool same = was == Py_None || is_version(was, st);
    if (was == Py_None || !same) PUT(self, node, version, version_of(st));
    return same && is_version(SLOT(self, node, told), st);
}

/* Make the kernel ask for a node's attributes again. */
static Outcome forget_attributes(Hot *self, PyObject *node) {
    PyObject *number = SLOT(self, node, id);
    return called(PyObject_CallMethodOneArg(self->view, s_forget_attributes, number));
}

/* Open a base file where its node says that it is; -1: unclear */
static int open_lower(Hot *self, PyObject *node, struct stat *st) {
    PyObject *parent = SLOT(self, node, parent);
    if (parent == Py_None || SLOT(self, node, more) != Py_None) return -1;
    int where = (int)NUMBER(self, parent, lower_fd);
    if (where < 0) return -1;
    const char *name = PyBytes_AS_STRING(SLOT(self, node, name));
    int fd = openat(where, name, READ_FLAGS | O_NOATIME);
    if (fd < 0 && errno == EPERM) fd = openat(where, name, READ_FLAGS);
    if (fd < 0) return -1;
    if (fstat(fd, st) || !is_key(SLOT(self, node, key), NUMBER(self, node, root), st)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The same of a file of the layer, where it would be served by the view. */
static int open_upper(Hot *self, PyObject *node, struct stat *st) {
    PyObject *parent = SLOT(self, node, parent);
    if (parent == Py_None || SLOT(self, node, more) != Py_None || IS(self, node, indexed))
        return -1;
    int where = (int)NUMBER(self, parent, upper_fd);
    if (where < 0) return -1;
    int fd = openat(where, PyBytes_AS_STRING(SLOT(self, node, name)), UPPER_FLAGS);
    if (fd < 0) return -1;
    if (fstat(fd, st) ||
        (st->st_size >= WORTH_PASSING && !is_none(self->view, s_through))) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The log of what is read; false: it could not be told. */
static bool note_read(Hot *self, PyObject *node, int fd) {
    if (!is_true(self->layer, s_step)) return true;
    bool done = false;
    PyObject *reads = PyObject_GetAttr(self->layer, s_reads);
    PyObject *known = reads ? PyObject_GetAttr(reads, s_known) : NULL;
    int seen = known ? PySet_Contains(known, SLOT(self, node, key)) : -1;
    if (seen == 1) {
        done = true;
    } else if (seen == 0) {
        PyObject *path = PyObject_CallMethodOneArg(self->tree, s_lower_file, node);
        PyObject *st = path ? PyObject_CallMethod(os_module, "fstat", "i", fd) : NULL;
        PyObject *result = st ? PyObject_CallMethodObjArgs(reads, s_note, SLOT(self, node, key),
                                                           path, st, NULL)
                              : NULL;
        done = result != NULL;
        Py_XDECREF(result);
        Py_XDECREF(st);
        Py_XDECREF(path);
    }
    Py_XDECREF(known);
    Py_XDECREF(reads);
    if (!done) PyErr_Clear();
    return done;
}

Outcome do_open(Hot *self, const struct fuse_in_header *in,
                const struct fuse_open_in *body) {
    PyObject *node = node_of(self, in->nodeid);
    if (node == NULL || body->flags & O_TRUNC || NUMBER(self, node, kind) != S_IFREG ||
        IS(self, node, gone) || NUMBER(self, node, through) || IS(self, node, passed))
        return DECLINE;
    bool reading = (body->flags & O_ACCMODE) != O_WRONLY, upper = IS(self, node, upper);
    int fd = (int)NUMBER(self, node, fd), opened = -1;
    struct stat st;
    if (fd < 0) {
        fd = opened = upper ? open_upper(self, node, &st) : open_lower(self, node, &st);
        if (fd < 0) return DECLINE;
    } else if (upper) {
        /* The kernel keeps a file by the view or past it: only its first handle decides. */
        if (!(IS(self, node, readable) || (!reading && IS(self, node, writable))) ||
            NUMBER(self, node, opens) == 0)
            return DECLINE;
    } else {
        if (!IS(self, node, readable) || SLOT(self, node, parent) == Py_None ||
            SLOT(self, node, more) != Py_None)
            return DECLINE;
        if (!is_stable(self, node)) { /* is it still where it was? */
            if (!lower_status(self, node, &st) || fstat(fd, &st)) return DECLINE;
        }
    }
    if (reading && !upper && !note_read(self, node, fd)) {
        if (opened >= 0) close(opened);
        return DECLINE;
    }
    if (opened >= 0) {
        PUT_NUMBER(self, node, fd, opened);
        PUT(self, node, readable, truth(true));
        PUT(self, node, writable, truth(upper));
    }
    PUT_NUMBER(self, node, opens, NUMBER(self, node, opens) + 1);
    bool same = upper || is_stable(self, node) || is_as_read(self, node, &st);
    bool kills = in->uid != 0 && is_true(self->layer, s_privileged);
    if (!same && forget_attributes(self, node) != DONE) return BROKEN;
    struct fuse_open_out out = {
        .fh = (uint64_t)NUMBER(self, node, id) << 1 | kills,
        .open_flags = same ? FOPEN_KEEP_CACHE : 0,
    };
    return reply(self, in->unique, &out, sizeof out);
}

Outcome do_read(Hot *self, const struct fuse_in_header *in,
                const struct fuse_read_in *body) {
    PyObject *node = node_of(self, body->fh >> 1);
    if (node == NULL || !IS(self, node, readable) || body->size > BUFFER) return DECLINE;
    int fd = (int)NUMBER(self, node, fd);
    if (fd < 0) return DECLINE;
    if (!IS(self, node, upper) && !is_stable(self, node)) {
        struct stat st;
        if (fstat(fd, &st)) return DECLINE;
        if (!is_as_read(self, node, &st) && forget_attributes(self, node) != DONE) return BROKEN;
    }
    ssize_t done = pread(fd, self->out, body->size, (off_t)body->offset);
    return done < 0 ? fail(self, in->unique, errno)
                    : reply(self, in->unique, self->out, (size_t)done);
}

Outcome do_write(Hot *self, const struct fuse_in_header *in,
                 const struct fuse_write_in *body) {
    PyObject *node = node_of(self, body->fh >> 1);
    if (node == NULL || !IS(self, node, writable) || !is_none(self->layer, s_quota))
        return DECLINE;
    if (body->write_flags & FUSE_WRITE_KILL_SUIDGID && is_true(self->layer, s_privileged))
        return DECLINE;
    int fd = (int)NUMBER(self, node, fd);
    if (fd < 0) return DECLINE;
    if (add(self->layer, s_changes, 1)) return BROKEN;
    const char *data = (const char *)(body + 1);
    uint32_t done = 0;
    do {
        ssize_t some = pwrite(fd, data + done, body->size - done, (off_t)(body->offset + done));
        if (some < 0) return fail(self, in->unique, errno);
        done += (uint32_t)some;
    } while (done < body->size);
    struct fuse_write_out out = {.size = done};
    return reply(self, in->unique, &out, sizeof out);
}

Outcome do_release(Hot *self, const struct fuse_in_header *in,
                   const struct fuse_release_in *body) {
    PyObject *node = node_of(self, body->fh >> 1);
    if (node == NULL || NUMBER(self, node, through)) return DECLINE;
    int64_t opens = NUMBER(self, node, opens) - 1;
    PUT_NUMBER(self, node, opens, opens);
    if (opens == 0) {
        int fd = (int)NUMBER(self, node, fd);
        if (!IS(self, node, gone) && fd >= 0) {
            close(fd);
            PUT_NUMBER(self, node, fd, -1);
            PUT(self, node, readable, truth(false));
            PUT(self, node, writable, truth(false));
        }
        if (collect(self, node) != DONE) return BROKEN;
    }
    return reply(self, in->unique, NULL, 0);
}
