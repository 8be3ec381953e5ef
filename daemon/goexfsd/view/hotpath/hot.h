/* The hot path: plain requests, answered without the interpreter.
 *
 * Most requests of a walk, a build or an archive are about entries that have nothing special to
 * them: a base file of one name, a copy in the layer that is open.  For these this module does
 * what the handlers do (names.py, attributes.py, data.py, directory.py), on the same nodes and
 * with the same effects.  Whatever is not plain it declines, and the lane has it answered in
 * Python, which is the reference and does everything.
 *
 * One rule makes that safe: a request is declined before anything has changed for it.  So each
 * function below first looks (DECLINE is possible), then changes (it is not).  A lookup may have
 * made a node; that is what the handler would find then.
 *
 * Nodes are Python's (node.py).  Their slots are read where the class says that they are; a class
 * that is not as expected is refused when a Hot is made.  Only the thread that holds the GIL
 * comes here, and it gives it away only while it waits for a request.
 */

#ifndef GOEXFS_HOT_H
#define GOEXFS_HOT_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 20)
#define NAME_MOST 255
#define ID_TOP 1
#define NS 1000000000LL

/* What Python knows too, and hot.py compares: of places.py, attributes.py, through.py, node.py. */
#define STAGING ".goexfs-stage-"
#define FRESH_NS 1000000000LL
#define OURS 1000000
#define WORTH_PASSING (256 << 10)
#define CREATED (1ULL << 62)
#define NUMBER_BITS 48

/* What became of a request: BROKEN, a Python exception is set; DECLINE, it is for the lane. */
typedef enum { BROKEN = -1, DONE, DECLINE } Outcome;
/* What a name leads to; UNCLEAR: that is for the handlers to say. */
typedef enum { ABSENT, BASE, UPPER, UNCLEAR } Found;

/* -- slots of Python's classes -------------------------------------------------------------- */

#define NODE_SLOTS(X) \
    X(id) X(kind) X(root) X(lookups) X(refs) X(parent) X(name) X(more) X(upper) X(upper_ino) \
    X(lower) X(key) X(indexed) X(upper_fd) X(lower_fd) X(fd) X(readable) X(writable) X(opens) \
    X(through) X(passed) X(gone) X(subdirs) X(watch) X(times) X(told) X(version) X(plain) X(acl) \
    X(listed)

#define AS_ENUM(name) N_##name,
#define AS_STRING(name) #name,
enum { NODE_SLOTS(AS_ENUM) N_COUNT };

typedef struct {
    PyObject_HEAD
    int fd;
    char *in;           /* the lane's buffer: a request */
    Py_ssize_t in_size;
    Py_buffer in_buffer;
    char *out;          /* ours: data of an answer */

    PyTypeObject *node;                 /* the class */
    Py_ssize_t offsets[N_COUNT];
    Py_ssize_t *all;                    /* offsets of every slot, to make a new node */
    Py_ssize_t all_count;
    PyObject *model;                    /* a fresh node, whose slots a new one starts with */

    PyObject *view;
    PyObject *attributes;               /* of the view when it was last looked at */
    PyObject *tree, *layer, *table;
    PyObject *by_id, *uppers, *lowers, *dropped;        /* of the table */
    PyObject *copied, *modes, *owners, *covered, *copies; /* of the ledger */
    PyObject *roots, *stable, *root_devs;               /* of the tree */
    PyObject *base, *watched, *absent;                  /* of the attributes */
    bool squashes;
    uint32_t uid, gid;
    int turn;           /* requests since others had theirs */
    int64_t patience;   /* ns to look again before poll(2) */
} Hot;

/* Names of attributes, interned. */
#define NAMES(X) \
    X(requests) X(plain) X(changes) X(quota) X(privileged) X(step) X(reads) X(known) X(through) \
    X(watcher) X(attributes) X(listings) X(listed) X(told_of) X(tidy) X(collect) X(_passed) \
    X(forget_attributes) X(note) X(lower_file) X(node) X(when) X(parts) X(begin_listing) \
    X(end_listing)
#define AS_NAME(name) extern PyObject *s_##name;
NAMES(AS_NAME)
extern PyObject *os_module;

#define SLOT(self, object, name) \
    (*(PyObject **)((char *)(object) + (self)->offsets[N_##name]))
#define IS(self, object, name) (SLOT(self, object, name) == Py_True)
#define NUMBER(self, object, name) as_number(SLOT(self, object, name))

static inline int64_t as_number(PyObject *value) {
    return value == Py_None ? -1 : PyLong_AsLongLong(value);
}

/* Takes over the reference to value. */
static inline void put(PyObject **slot, PyObject *value) {
    PyObject *old = *slot;
    *slot = value;
    Py_XDECREF(old);
}

#define PUT(self, object, name, value) put(&SLOT(self, object, name), value)
#define PUT_NUMBER(self, object, name, value) PUT(self, object, name, PyLong_FromLongLong(value))

static inline PyObject *truth(bool value) { return Py_NewRef(value ? Py_True : Py_False); }

static inline int64_t at_tuple(PyObject *tuple, int64_t index) {
    return PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, index));
}

/* A list's item as a number. */
static inline int64_t at(PyObject *list, int64_t index) {
    return PyLong_AsLongLong(PyList_GET_ITEM(list, index));
}

/* Whether an attribute is None; true on an error, which is cleared. */
static inline bool is_none(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL) PyErr_Clear();
    Py_XDECREF(value);
    return value == NULL || value == Py_None;
}

static inline bool is_true(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    int found = value == NULL ? -1 : PyObject_IsTrue(value);
    if (found < 0) PyErr_Clear();
    Py_XDECREF(value);
    return found != 0;
}

/* Count one of an object's attributes up. */
static inline int add(PyObject *object, PyObject *name, uint64_t count) {
    PyObject *before = PyObject_GetAttr(object, name);
    if (before == NULL) return -1;
    PyObject *after = PyLong_FromUnsignedLongLong(PyLong_AsUnsignedLongLong(before) + count);
    Py_DECREF(before);
    int failed = after == NULL ? -1 : PyObject_SetAttr(object, name, after);
    Py_XDECREF(after);
    return failed;
}

/* -- what is known -------------------------------------------------------------------------- */

static inline PyObject *key_of(int64_t root, const struct stat *st) {
    return Py_BuildValue("(LKK)", (long long)root, (unsigned long long)st->st_dev,
                         (unsigned long long)st->st_ino);
}

static inline bool is_key(PyObject *key, int64_t root, const struct stat *st) {
    return key != Py_None && PyLong_AsLongLong(PyTuple_GET_ITEM(key, 0)) == root &&
           PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(key, 1)) == st->st_dev &&
           PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(key, 2)) == st->st_ino;
}

static inline int64_t in_ns(struct timespec time) {
    return (int64_t)time.tv_sec * NS + time.tv_nsec;
}

static inline int64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return in_ns(now);
}

/* Size and times, as nodes remember them. */
static inline PyObject *version_of(const struct stat *st) {
    return Py_BuildValue("(LLL)", (long long)st->st_size, (long long)in_ns(st->st_mtim),
                         (long long)in_ns(st->st_ctim));
}

static inline bool is_version(PyObject *version, const struct stat *st) {
    return at_tuple(version, 0) == st->st_size && at_tuple(version, 1) == in_ns(st->st_mtim) &&
           at_tuple(version, 2) == in_ns(st->st_ctim);
}

static inline PyObject *node_of(Hot *self, uint64_t number) { /* borrowed; NULL: unknown */
    PyObject *key = PyLong_FromUnsignedLongLong(number);
    PyObject *node = PyDict_GetItemWithError(self->by_id, key);
    Py_DECREF(key);
    return node;
}

static inline bool is_root(Hot *self, PyObject *node) {
    int64_t root = NUMBER(self, node, root);
    return root < 0 || PyList_GET_ITEM(self->roots, root) == node;
}

static inline bool is_stable(Hot *self, PyObject *node) {
    return PyList_GET_ITEM(self->stable, NUMBER(self, node, root)) == Py_True;
}

static inline bool is_named(Hot *self, PyObject *node, PyObject *parent, const char *name,
                            size_t length) {
    PyObject *own = SLOT(self, node, name);
    return SLOT(self, node, parent) == parent && (size_t)PyBytes_GET_SIZE(own) == length &&
           memcmp(PyBytes_AS_STRING(own), name, length) == 0;
}

static inline bool is_dots(const char *name, size_t length) {
    return name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'));
}

/* place.c: where entries are, and their nodes */
int merged_fd(Hot *self, PyObject *node);
Found find(Hot *self, PyObject *parent, const char *name, struct stat *st);
PyObject *fresh_node(Hot *self, PyObject *parent, PyObject *number, PyObject *name, mode_t mode);
PyObject *add_node(Hot *self, PyObject *node, PyObject *index, PyObject *key);
PyObject *entry_node(Hot *self, PyObject *parent, const char *name, size_t length,
                     PyObject *name_object, const struct stat *st, Found found);
bool lower_status(Hot *self, PyObject *node, struct stat *st);
bool status(Hot *self, PyObject *node, struct stat *st);

/* attr.c: what stat shows */
uint64_t attr_lasts(Hot *self, PyObject *node, const struct stat *st);
bool attr(Hot *self, PyObject *node, const struct stat *st, struct fuse_attr *into);
void told(Hot *self, PyObject *node, const struct stat *st);
bool entry(Hot *self, PyObject *node, const struct stat *st, bool ours,
           struct fuse_entry_out *into);

/* answer.c */
Outcome reply(Hot *self, uint64_t unique, const void *data, size_t length);
Outcome fail(Hot *self, uint64_t unique, int error);
Outcome called(PyObject *result);
Outcome collect(Hot *self, PyObject *node);
Outcome answer(Hot *self);

/* names.c, data.c, dirs.c: one request each */
Outcome do_lookup(Hot *self, const struct fuse_in_header *in, const char *name);
Outcome do_getattr(Hot *self, const struct fuse_in_header *in);
Outcome do_forget(Hot *self, const struct fuse_in_header *in,
                  const struct fuse_forget_in *body);
Outcome do_batch_forget(Hot *self, const struct fuse_batch_forget_in *body);
Outcome do_create(Hot *self, const struct fuse_in_header *in,
                  const struct fuse_create_in *body);
Outcome do_getxattr(Hot *self, const struct fuse_in_header *in,
                    const struct fuse_getxattr_in *body);
Outcome do_open(Hot *self, const struct fuse_in_header *in,
                const struct fuse_open_in *body);
Outcome do_read(Hot *self, const struct fuse_in_header *in,
                const struct fuse_read_in *body);
Outcome do_write(Hot *self, const struct fuse_in_header *in,
                 const struct fuse_write_in *body);
Outcome do_release(Hot *self, const struct fuse_in_header *in,
                   const struct fuse_release_in *body);
Outcome do_opendir(Hot *self, const struct fuse_in_header *in);
Outcome do_readdirplus(Hot *self, const struct fuse_in_header *in,
                       const struct fuse_read_in *body);
Outcome do_releasedir(Hot *self, const struct fuse_in_header *in,
                      const struct fuse_release_in *body);

#endif
