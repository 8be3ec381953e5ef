/* Requests about directories: directory.py, of what is plain. */

#include "hot.h"

/* Whether the next three (or four) numbers of a tuple are what stat says; moves on behind them. */
static bool is_state(PyObject *parts, Py_ssize_t *next, int fd, bool with_device) {
    struct stat st;
    if (fstat(fd, &st)) return false;
    const int64_t now[] = {(int64_t)st.st_dev, (int64_t)st.st_ino, in_ns(st.st_mtim),
                           in_ns(st.st_ctim)};
    for (int each = with_device ? 0 : 1; each < 4; each++, ++*next)
        if (*next >= PyTuple_GET_SIZE(parts) || at_tuple(parts, *next) != now[each]) return false;
    return true;
}

/* Directories.as_listed: whether a directory holds what the kernel was last told. */
static bool is_as_listed(Hot *self, PyObject *node, int below) {
    PyObject *listed = SLOT(self, node, listed);
    if (listed == Py_None) return false;
    PyObject *when = PyObject_GetAttr(listed, s_when), *parts = PyObject_GetAttr(listed, s_parts);
    bool same = when != NULL && parts != NULL && PyTuple_Check(parts);
    if (same && IS(self, node, lower) && NUMBER(self, node, watch) <= 0 && !is_stable(self, node))
        same = monotonic() - PyLong_AsLongLong(when) < FRESH_NS;
    Py_ssize_t next = 0;
    if (same && IS(self, node, upper))
        same = is_state(parts, &next, (int)NUMBER(self, node, upper_fd), false);
    if (same && below >= 0) same = is_state(parts, &next, below, true);
    same = same && next == PyTuple_GET_SIZE(parts);
    Py_XDECREF(when);
    Py_XDECREF(parts);
    return same;
}

/* Directories.opendir */
Outcome do_opendir(Hot *self, const struct fuse_in_header *in) {
    PyObject *node = node_of(self, in->nodeid);
    if (node == NULL || IS(self, node, gone) || NUMBER(self, node, root) < 0 ||
        NUMBER(self, node, kind) != S_IFDIR)
        return DECLINE;
    int below = merged_fd(self, node);
    if (below == -2 || (IS(self, node, upper) && NUMBER(self, node, upper_fd) < 0)) return DECLINE;
    PyObject *number = PyObject_CallMethodOneArg(self->view, s_begin_listing, node);
    if (number == NULL) return BROKEN;
    struct fuse_open_out out = {
        .fh = PyLong_AsUnsignedLongLong(number),
        .open_flags = FOPEN_CACHE_DIR | (is_as_listed(self, node, below) ? FOPEN_KEEP_CACHE : 0),
    };
    Py_DECREF(number);
    return reply(self, in->unique, &out, sizeof out);
}

/* One entry into the answer, by the handler's own method; its length, 0: there is none (any
 * more), -1: an error that Python has set. */
static Py_ssize_t slow_entry(Hot *self, PyObject *listing, PyObject *name, uint64_t following,
                             char *into) {
    PyObject *found = PyObject_CallMethodObjArgs(self->view, s_told_of, listing, name, NULL);
    if (found == NULL || found == Py_None) {
        Py_XDECREF(found);
        return found == NULL ? -1 : 0;
    }
    struct fuse_direntplus *one = (struct fuse_direntplus *)into;
    Py_ssize_t length = PyBytes_GET_SIZE(name);
    memcpy(&one->entry_out, PyBytes_AS_STRING(PyTuple_GET_ITEM(found, 0)), sizeof one->entry_out);
    one->dirent.ino = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(found, 1));
    one->dirent.type = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(found, 2));
    one->dirent.off = following;
    one->dirent.namelen = (uint32_t)length;
    memcpy(one->dirent.name, PyBytes_AS_STRING(name), (size_t)length);
    Py_DECREF(found);
    return (Py_ssize_t)FUSE_DIRENTPLUS_SIZE(one);
}

/* Directories.told_of; as above, but -2: not for us */
static Py_ssize_t quick_entry(Hot *self, PyObject *parent, PyObject *name, uint64_t following,
                              char *into) {
    const char *text = PyBytes_AS_STRING(name);
    size_t length = (size_t)PyBytes_GET_SIZE(name);
    if (is_dots(text, length)) return -2;
    struct stat st;
    Found found = find(self, parent, text, &st);
    if (found == UNCLEAR) return -2;
    if (found == ABSENT) return 0;
    PyObject *node = entry_node(self, parent, text, length, name, &st, found);
    struct fuse_direntplus *one = (struct fuse_direntplus *)into;
    if (node == NULL || !entry(self, node, &st, found == UPPER, &one->entry_out)) return -2;
    one->dirent.ino = one->entry_out.nodeid;
    one->dirent.type = (st.st_mode & S_IFMT) >> 12;
    one->dirent.off = following;
    one->dirent.namelen = (uint32_t)length;
    memcpy(one->dirent.name, text, length);
    return (Py_ssize_t)FUSE_DIRENTPLUS_SIZE(one);
}

/* Directories.fill */
Outcome do_readdirplus(Hot *self, const struct fuse_in_header *in,
                       const struct fuse_read_in *body) {
    if (body->size > BUFFER || body->offset > PY_SSIZE_T_MAX) return DECLINE;
    PyObject *listings = PyObject_GetAttr(self->view, s_listings);
    PyObject *number = PyLong_FromUnsignedLongLong(body->fh);
    PyObject *listing = listings && number ? PyDict_GetItemWithError(listings, number) : NULL;
    Py_XINCREF(listing);
    Py_XDECREF(number);
    Py_XDECREF(listings);
    if (listing == NULL) {
        PyErr_Clear();
        return DECLINE;
    }
    Outcome outcome = DECLINE;
    PyObject *parent = PyObject_GetAttr(listing, s_node);
    PyObject *offset = PyLong_FromUnsignedLongLong(body->offset);
    PyObject *names = PyObject_CallMethodObjArgs(self->view, s_listed, listing, offset, NULL);
    Py_XDECREF(offset);
    if (parent == NULL || names == NULL || !PyList_Check(names)) {
        PyErr_Clear(); /* it is met again, and told, in Python */
        goto end;
    }
    size_t length = 0;
    for (Py_ssize_t each = (Py_ssize_t)body->offset; each < PyList_GET_SIZE(names); each++) {
        PyObject *name = PyList_GET_ITEM(names, each);
        if (name == Py_None) continue;
        size_t needs = FUSE_NAME_OFFSET_DIRENTPLUS + (size_t)PyBytes_GET_SIZE(name);
        needs = FUSE_DIRENT_ALIGN(needs);
        if (length + needs > body->size) break;
        memset(self->out + length, 0, needs);
        Py_ssize_t took = quick_entry(self, parent, name, (uint64_t)each + 1, self->out + length);
        if (took == -2) {
            if (PyErr_Occurred()) PyErr_Clear();
            took = slow_entry(self, listing, name, (uint64_t)each + 1, self->out + length);
        }
        if (took < 0) {
            PyErr_Clear();
            if (length == 0) goto end;
            break; /* what is told already counts; the next request meets the same */
        }
        length += (size_t)took;
    }
    outcome = reply(self, in->unique, self->out, length);
end:
    Py_XDECREF(parent);
    Py_XDECREF(names);
    Py_DECREF(listing);
    return outcome;
}

/* Directories.releasedir */
Outcome do_releasedir(Hot *self, const struct fuse_in_header *in,
                      const struct fuse_release_in *body) {
    PyObject *number = PyLong_FromUnsignedLongLong(body->fh);
    if (number == NULL) return BROKEN;
    Outcome outcome = called(PyObject_CallMethodOneArg(self->view, s_end_listing, number));
    Py_DECREF(number);
    return outcome == DONE ? reply(self, in->unique, NULL, 0) : outcome;
}
