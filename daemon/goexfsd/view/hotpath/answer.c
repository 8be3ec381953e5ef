/* Which request is whose, and how answers get to the kernel. */

#include "hot.h"

#include <sys/uio.h>

Outcome reply(Hot *self, uint64_t unique, const void *data, size_t length) {
    struct fuse_out_header head = {
        .len = (uint32_t)(sizeof head + length), .error = 0, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
    /* The kernel does not want every answer: a process was killed, the mount is going away. */
    (void)!writev(self->fd, parts, length ? 2 : 1);
    return DONE;
}

Outcome fail(Hot *self, uint64_t unique, int error) {
    struct fuse_out_header head = {.len = sizeof head, .error = -error, .unique = unique};
    (void)!write(self->fd, &head, sizeof head);
    return DONE;
}

/* What a call of a Python method came to; its result is not wanted. */
Outcome called(PyObject *result) {
    if (result == NULL) return BROKEN;
    Py_DECREF(result);
    return DONE;
}

Outcome collect(Hot *self, PyObject *node) {
    if (NUMBER(self, node, lookups) || NUMBER(self, node, opens) || NUMBER(self, node, refs))
        return DONE;
    return called(PyObject_CallMethodOneArg(self->table, s_collect, node));
}

Outcome answer(Hot *self) {
    const struct fuse_in_header *in = (const void *)self->in;
    const void *body = in + 1;
    switch (in->opcode) {
    case FUSE_LOOKUP: return do_lookup(self, in, body);
    case FUSE_GETATTR: return do_getattr(self, in);
    case FUSE_FORGET: return do_forget(self, in, body);
    case FUSE_BATCH_FORGET: return do_batch_forget(self, body);
    case FUSE_OPEN: return do_open(self, in, body);
    case FUSE_READ: return do_read(self, in, body);
    case FUSE_WRITE: return do_write(self, in, body);
    case FUSE_RELEASE: return do_release(self, in, body);
    case FUSE_READDIRPLUS: return do_readdirplus(self, in, body);
    case FUSE_OPENDIR: return do_opendir(self, in);
    case FUSE_RELEASEDIR: return do_releasedir(self, in, body);
    case FUSE_CREATE: return do_create(self, in, body);
    case FUSE_GETXATTR: return do_getxattr(self, in, body);
    case FUSE_IOCTL: return fail(self, in->unique, ENOTTY); /* it comes with each isatty */
    default: return DECLINE;
    }
}
