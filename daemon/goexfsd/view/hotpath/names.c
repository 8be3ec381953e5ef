/* Requests about names: names.py, of what is plain. */

#include "hot.h"

#include <sys/xattr.h>

#define CREATE_FLAGS (O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
#define OWNER_NEEDS 0600 /* of a file: format.owner_needs */
#define CAPABILITY "security.capability"

Outcome do_lookup(Hot *self, const struct fuse_in_header *in, const char *name) {
    PyObject *parent = node_of(self, in->nodeid);
    size_t length = in->len - sizeof *in - 1;
    if (parent == NULL || length > NAME_MOST || NUMBER(self, parent, root) < 0) return DECLINE;
    if (is_dots(name, length)) return DECLINE;
    if (NUMBER(self, parent, watch) == 0 && !is_none(self->tree, s_watcher)) return DECLINE;
    struct stat st;
    Found found = find(self, parent, name, &st);
    if (found == UNCLEAR) return DECLINE;
    if (found == ABSENT) {
        PyObject *absent = PyList_GET_ITEM(self->absent, NUMBER(self, parent, root));
        return reply(self, in->unique, PyBytes_AS_STRING(absent),
                     (size_t)PyBytes_GET_SIZE(absent));
    }
    PyObject *node = entry_node(self, parent, name, length, NULL, &st, found);
    struct fuse_entry_out out;
    if (node == NULL || !entry(self, node, &st, found == UPPER, &out)) return DECLINE;
    return reply(self, in->unique, &out, sizeof out);
}

Outcome do_getattr(Hot *self, const struct fuse_in_header *in) {
    PyObject *node = node_of(self, in->nodeid);
    struct fuse_attr_out out = {0};
    struct stat st;
    if (node == NULL || NUMBER(self, node, root) < 0 || !status(self, node, &st) ||
        !attr(self, node, &st, &out.attr))
        return DECLINE;
    out.attr_valid = attr_lasts(self, node, &st);
    told(self, node, &st);
    return reply(self, in->unique, &out, sizeof out);
}

static Outcome forget_one(Hot *self, uint64_t number, uint64_t count) {
    PyObject *node = node_of(self, number);
    if (node == NULL) return PyErr_Occurred() ? BROKEN : DONE;
    int64_t left = NUMBER(self, node, lookups) - (int64_t)count;
    if (left > 0 || number == ID_TOP) {
        PUT_NUMBER(self, node, lookups, left);
        return DONE;
    }
    PUT_NUMBER(self, node, lookups, 0);
    return collect(self, node);
}

Outcome do_forget(Hot *self, const struct fuse_in_header *in,
                  const struct fuse_forget_in *body) {
    return forget_one(self, in->nodeid, body->nlookup);
}

Outcome do_batch_forget(Hot *self, const struct fuse_batch_forget_in *body) {
    const struct fuse_forget_one *one = (const void *)(body + 1);
    for (uint32_t each = 0; each < body->count; each++)
        if (forget_one(self, one[each].nodeid, one[each].nlookup) != DONE) return BROKEN;
    return DONE;
}

/* Where a file can simply be made: in a directory of the layer without default ACL, under a name
 * that nothing has or had.  The directory's descriptor, or -1. */
static int open_ground(Hot *self, PyObject *parent, const char *name) {
    if (parent == NULL || NUMBER(self, parent, kind) != S_IFDIR || IS(self, parent, gone) ||
        NUMBER(self, parent, root) < 0 || !IS(self, parent, upper) ||
        SLOT(self, parent, acl) != Py_False || strlen(name) > NAME_MOST ||
        strncmp(name, STAGING, sizeof STAGING - 1) == 0)
        return -1;
    if (is_true(self->layer, s_privileged) || !is_true(self->layer, s__passed) ||
        !is_none(self->layer, s_quota))
        return -1;
    int fd = (int)NUMBER(self, parent, upper_fd), below = merged_fd(self, parent);
    struct stat st;
    if (fd < 0 || below < -1) return -1;
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT) return -1;
    if (below >= 0 && (fstatat(below, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
                       (errno != ENOENT && errno != ENOTDIR)))
        return -1;
    return fd;
}

/* The node of a file just made, which its creator has open; borrowed.  NULL: not for us (the
 * records speak of its number), or an error. */
static PyObject *made_node(Hot *self, PyObject *parent, PyObject *name, const struct stat *st,
                           int fd) {
    PyObject *ino = PyLong_FromUnsignedLongLong(st->st_ino);
    PyObject *number = PyLong_FromUnsignedLongLong(CREATED | st->st_ino);
    PyObject *node = NULL;
    if (ino != NULL && number != NULL && PyDict_Contains(self->copies, ino) == 0 &&
        PyDict_Contains(self->modes, ino) == 0 && PyDict_Contains(self->owners, ino) == 0 &&
        PyDict_Contains(self->uppers, ino) == 0 && PyDict_Contains(self->by_id, number) == 0)
        node = fresh_node(self, parent, number, name, st->st_mode);
    if (node != NULL) {
        PUT(self, node, upper, truth(true));
        PUT(self, node, upper_ino, Py_NewRef(ino));
        PUT_NUMBER(self, node, fd, fd);
        PUT(self, node, readable, truth(true));
        PUT(self, node, writable, truth(true));
        PUT(self, node, plain, truth(true)); /* nobody can have given it capabilities yet */
        PUT_NUMBER(self, node, opens, 1);
        node = add_node(self, node, self->uppers, ino);
    }
    Py_XDECREF(number);
    Py_XDECREF(ino);
    return node;
}

/* Names.create */
Outcome do_create(Hot *self, const struct fuse_in_header *in,
                  const struct fuse_create_in *body) {
    PyObject *parent = node_of(self, in->nodeid);
    const char *text = (const char *)(body + 1);
    mode_t mode = body->mode & 07777 & ~body->umask;
    if ((mode & OWNER_NEEDS) != OWNER_NEEDS) return DECLINE;
    int where = open_ground(self, parent, text);
    if (where < 0) return DECLINE;
    PyObject *name = PyBytes_FromString(text);
    if (name == NULL) return BROKEN;
    int fd = openat(where, text, CREATE_FLAGS, mode);
    struct stat st;
    PyObject *node = NULL;
    if (fd >= 0 && fstat(fd, &st) == 0) node = made_node(self, parent, name, &st, fd);
    Py_DECREF(name);
    if (node == NULL) {
        if (fd >= 0) {
            close(fd);
            unlinkat(where, text, 0);
        }
        return DECLINE;
    }
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {.open = {.fh = (CREATED | st.st_ino) << 1, .open_flags = FOPEN_KEEP_CACHE}};
    entry(self, node, &st, true, &out.entry);
    if (add(self->layer, s_changes, 1)) return BROKEN;
    return reply(self, in->unique, &out, sizeof out);
}

/* Metadata.getxattr, of what the kernel asks for before the first write */
Outcome do_getxattr(Hot *self, const struct fuse_in_header *in,
                    const struct fuse_getxattr_in *body) {
    if (strcmp((const char *)(body + 1), CAPABILITY) != 0) return DECLINE;
    PyObject *node = node_of(self, in->nodeid);
    if (node == NULL) return DECLINE;
    if (!IS(self, node, plain)) {
        if (IS(self, node, upper) || !IS(self, node, readable)) return DECLINE;
        if (fgetxattr((int)NUMBER(self, node, fd), CAPABILITY, NULL, 0) >= 0 || errno != ENODATA)
            return DECLINE;
    }
    return fail(self, in->unique, ENODATA);
}
