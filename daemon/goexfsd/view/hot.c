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

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 20)
#define NAME_MOST 255
#define ID_TOP 1
#define NS 1000000000LL
#define BLOCK 4096
#define PATIENCE_NS 30000

/* What Python knows too, and hot.py compares: of places.py, attributes.py, through.py, node.py. */
#define STAGING ".goexfs-stage-"
#define FRESH_NS 1000000000LL
#define OURS 1000000
#define WORTH_PASSING (256 << 10)
#define CREATED (1ULL << 62)
#define NUMBER_BITS 48

#define READ_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
#define UPPER_FLAGS (O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

#define CREATE_FLAGS (O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
#define OWNER_NEEDS 0600 /* of a file: format.owner_needs */
#define CAPABILITY "security.capability"

typedef enum { BROKEN = -1, DONE, DECLINE } Outcome;

/* -- slots of Python's classes -------------------------------------------------------------- */

#define NODE_SLOTS(X) \
    X(id) X(kind) X(root) X(lookups) X(refs) X(parent) X(name) X(more) X(upper) X(upper_ino) \
    X(lower) X(key) X(indexed) X(upper_fd) X(lower_fd) X(fd) X(readable) X(writable) X(opens) \
    X(through) X(passed) X(gone) X(subdirs) X(watch) X(times) X(told) X(version) X(plain) X(acl) X(listed)

#define AS_ENUM(name) N_##name,
#define AS_STRING(name) #name,
enum { NODE_SLOTS(AS_ENUM) N_COUNT };
static const char *const node_slots[] = {NODE_SLOTS(AS_STRING)};

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

static PyObject *s_requests, *s_plain, *s_changes, *s_quota, *s_privileged, *s_step, *s_reads, *s_known,
    *s_through, *s_watcher, *s_attributes, *s_listings, *s_listed, *s_told_of, *s_tidy,
    *s_collect, *s_passed, *s_forget_attributes, *s_note, *s_lower_file, *s_node, *s_when, *s_parts, *s_begin_listing, *s_end_listing;
static PyObject *os_fstat;

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

static int64_t at_tuple(PyObject *tuple, int64_t index) {
    return PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, index));
}

/* A list's item as a number. */
static inline int64_t at(PyObject *list, int64_t index) {
    return PyLong_AsLongLong(PyList_GET_ITEM(list, index));
}

/* Whether an attribute is None; true on an error, which is cleared. */
static bool is_none(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL) PyErr_Clear();
    Py_XDECREF(value);
    return value == NULL || value == Py_None;
}

static bool is_true(PyObject *object, PyObject *name) {
    PyObject *value = PyObject_GetAttr(object, name);
    int found = value == NULL ? -1 : PyObject_IsTrue(value);
    if (found < 0) PyErr_Clear();
    Py_XDECREF(value);
    return found != 0;
}

/* Count one of an object's attributes up. */
static int add(PyObject *object, PyObject *name, uint64_t count) {
    PyObject *before = PyObject_GetAttr(object, name);
    if (before == NULL) return -1;
    PyObject *after = PyLong_FromUnsignedLongLong(PyLong_AsUnsignedLongLong(before) + count);
    Py_DECREF(before);
    int failed = after == NULL ? -1 : PyObject_SetAttr(object, name, after);
    Py_XDECREF(after);
    return failed;
}

/* -- what is known -------------------------------------------------------------------------- */

static PyObject *key_of(int64_t root, const struct stat *st) {
    return Py_BuildValue("(LKK)", (long long)root, (unsigned long long)st->st_dev,
                         (unsigned long long)st->st_ino);
}

static bool is_key(PyObject *key, int64_t root, const struct stat *st) {
    return key != Py_None && PyLong_AsLongLong(PyTuple_GET_ITEM(key, 0)) == root &&
           PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(key, 1)) == st->st_dev &&
           PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(key, 2)) == st->st_ino;
}

static inline int64_t in_ns(struct timespec time) {
    return (int64_t)time.tv_sec * NS + time.tv_nsec;
}

static int64_t monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return in_ns(now);
}

/* Size and times, as nodes remember them. */
static PyObject *version_of(const struct stat *st) {
    return Py_BuildValue("(LLL)", (long long)st->st_size, (long long)in_ns(st->st_mtim),
                         (long long)in_ns(st->st_ctim));
}

static bool is_version(PyObject *version, const struct stat *st) {
    return at_tuple(version, 0) == st->st_size && at_tuple(version, 1) == in_ns(st->st_mtim) &&
           at_tuple(version, 2) == in_ns(st->st_ctim);
}

static PyObject *node_of(Hot *self, uint64_t number) { /* borrowed; NULL: unknown */
    PyObject *key = PyLong_FromUnsignedLongLong(number);
    PyObject *node = PyDict_GetItemWithError(self->by_id, key);
    Py_DECREF(key);
    return node;
}

static bool is_root(Hot *self, PyObject *node) {
    int64_t root = NUMBER(self, node, root);
    return root < 0 || PyList_GET_ITEM(self->roots, root) == node;
}

static bool is_stable(Hot *self, PyObject *node) {
    return PyList_GET_ITEM(self->stable, NUMBER(self, node, root)) == Py_True;
}

static bool is_named(Hot *self, PyObject *node, PyObject *parent, const char *name, size_t length) {
    PyObject *own = SLOT(self, node, name);
    return SLOT(self, node, parent) == parent && (size_t)PyBytes_GET_SIZE(own) == length &&
           memcmp(PyBytes_AS_STRING(own), name, length) == 0;
}

/* -- where entries are ----------------------------------------------------------------------- */

typedef enum { ABSENT, BASE, UPPER, UNCLEAR } Found;

static bool is_whiteout(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == 0; }

/* The lower descriptor of a directory that may show the base; -1: it does not, -2: unclear. */
static int merged_fd(Hot *self, PyObject *node) {
    if (!IS(self, node, lower)) return -1;
    int fd = (int)NUMBER(self, node, lower_fd);
    if (fd < 0) return -2;
    if (IS(self, node, upper) && !is_root(self, node)) {
        if (monotonic() - NUMBER(self, node, times) > FRESH_NS) return -2;
    }
    return fd;
}

/* Places.find */
static Found find(Hot *self, PyObject *parent, const char *name, struct stat *st) {
    if (IS(self, parent, gone) || NUMBER(self, parent, root) < 0 ||
        NUMBER(self, parent, kind) != S_IFDIR ||
        strncmp(name, STAGING, sizeof STAGING - 1) == 0)
        return UNCLEAR;
    if (IS(self, parent, upper)) {
        int fd = (int)NUMBER(self, parent, upper_fd);
        if (fd < 0) return UNCLEAR;
        if (fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) == 0)
            return is_whiteout(st) ? ABSENT : UPPER;
        if (errno != ENOENT) return UNCLEAR;
    }
    int fd = merged_fd(self, parent);
    if (fd < 0) return fd == -1 ? ABSENT : UNCLEAR;
    if (fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) == 0) return BASE;
    return errno == ENOENT || errno == ENOTDIR ? ABSENT : UNCLEAR;
}

/* A node that is not in the table yet; NULL: an error. */
static PyObject *fresh_node(Hot *self, PyObject *parent, PyObject *number, PyObject *name,
                            mode_t mode) {
    PyObject *node = PyType_GenericAlloc(self->node, 0);
    if (node == NULL) return NULL;
    for (Py_ssize_t each = 0; each < self->all_count; each++) {
        PyObject *value = *(PyObject **)((char *)self->model + self->all[each]);
        *(PyObject **)((char *)node + self->all[each]) = Py_XNewRef(value);
    }
    PUT(self, node, id, Py_NewRef(number));
    PUT_NUMBER(self, node, kind, mode & S_IFMT);
    PUT(self, node, root, Py_NewRef(SLOT(self, parent, root)));
    PUT(self, node, parent, Py_NewRef(parent));
    PUT(self, node, name, Py_NewRef(name));
    return node;
}

/* Into the table, which finds the node by its number and under key in index.  Takes over the
 * reference; returns it borrowed, or NULL: an error. */
static PyObject *add_node(Hot *self, PyObject *node, PyObject *index, PyObject *key) {
    PyObject *parent = SLOT(self, node, parent);
    int failed = PyDict_SetItem(self->by_id, SLOT(self, node, id), node) ||
                 PyDict_SetItem(index, key, node);
    Py_DECREF(node);
    if (failed) return NULL;
    PUT_NUMBER(self, parent, refs, NUMBER(self, parent, refs) + 1);
    return node;
}

/* Tree._base_node: what most entries are.  Borrowed; NULL: it is not for us, or an error. */
static PyObject *base_node(Hot *self, PyObject *parent, PyObject *name, const struct stat *st,
                           PyObject *key) {
    int64_t root = NUMBER(self, parent, root);
    if (st->st_dev != PyLong_AsUnsignedLongLong(PyList_GET_ITEM(self->root_devs, root)) ||
        st->st_ino <= ID_TOP || st->st_ino >> NUMBER_BITS || PyDict_Contains(self->copied, key))
        return NULL;
    PyObject *number = PyLong_FromUnsignedLongLong((uint64_t)root << NUMBER_BITS | st->st_ino);
    PyObject *node = NULL;
    if (number != NULL && PyDict_Contains(self->by_id, number) == 0)
        node = fresh_node(self, parent, number, name, st->st_mode);
    Py_XDECREF(number);
    if (node == NULL) return NULL;
    PUT(self, node, key, Py_NewRef(key));
    PUT(self, node, lower, truth(true));
    return add_node(self, node, self->lowers, key);
}

/* Tree.node: the node of an entry just found.  Borrowed; NULL: not for us, or an error. */
static PyObject *entry_node(Hot *self, PyObject *parent, const char *name, size_t length,
                            PyObject *name_object, const struct stat *st, Found found) {
    PyObject *node, *key;
    if (found == UPPER) {
        key = PyLong_FromUnsignedLongLong(st->st_ino);
        node = PyDict_GetItemWithError(self->uppers, key);
        Py_DECREF(key);
        if (node == NULL || !IS(self, node, upper)) return NULL;
    } else {
        key = key_of(NUMBER(self, parent, root), st);
        if (key == NULL) return NULL;
        node = PyDict_GetItemWithError(self->lowers, key);
        if (node == NULL && !PyErr_Occurred()) {
            PyObject *made = name_object ? Py_NewRef(name_object)
                                         : PyBytes_FromStringAndSize(name, (Py_ssize_t)length);
            if (made != NULL) node = base_node(self, parent, made, st, key);
            Py_XDECREF(made);
            Py_DECREF(key);
            return node;
        }
        Py_DECREF(key);
        if (node == NULL || IS(self, node, upper)) return NULL;
    }
    if (IS(self, node, gone) || NUMBER(self, node, kind) != (st->st_mode & S_IFMT) ||
        !is_named(self, node, parent, name, length))
        return NULL;
    return node;
}

/* -- attributes ------------------------------------------------------------------------------ */

/* Attributes._found: seconds that the kernel may rely on what it found in the base. */
static uint64_t found_lasts(Hot *self, PyObject *node, const struct stat *st) {
    int64_t root = NUMBER(self, node, root);
    PyObject *parent = SLOT(self, node, parent);
    if (parent == Py_None || NUMBER(self, parent, watch) <= 0 || IS(self, node, upper) ||
        SLOT(self, node, more) != Py_None || (st->st_nlink > 1 && !S_ISDIR(st->st_mode)))
        return (uint64_t)at(self->base, root);
    return (uint64_t)at(self->watched, root);
}

/* Attributes._lasts */
static uint64_t attr_lasts(Hot *self, PyObject *node, const struct stat *st) {
    if (NUMBER(self, node, through)) return 0;
    if (IS(self, node, upper)) return OURS;
    if (NUMBER(self, node, kind) != S_IFDIR) return found_lasts(self, node, st);
    return (uint64_t)at(NUMBER(self, node, watch) <= 0 ? self->base : self->watched,
                        NUMBER(self, node, root));
}

/* Tree.dir_links; -1: unclear */
static int64_t dir_links(Hot *self, PyObject *node, const struct stat *st) {
    if (!IS(self, node, upper)) return st->st_nlink ? (int64_t)st->st_nlink : 1;
    if (SLOT(self, node, subdirs) == Py_None) return -1;
    int64_t links = 2;
    if (IS(self, node, lower)) {
        struct stat below;
        int fd = merged_fd(self, node);
        if (fd < 0 || fstat(fd, &below)) return -1;
        links = (int64_t)below.st_nlink;
        if (links < 2) return 1;
    }
    links += PyLong_AsLongLong(SLOT(self, node, subdirs));
    return links < 2 ? 2 : links;
}

/* Attributes.links of a base file; -1: unclear */
static int64_t base_links(Hot *self, PyObject *node, const struct stat *st) {
    if (IS(self, node, upper) || IS(self, node, indexed) || IS(self, node, gone)) return -1;
    return PyDict_GET_SIZE(self->covered) ? -1 : (int64_t)st->st_nlink;
}

/* Attributes._attr; false: unclear.  Nothing is changed (the caller calls told, then). */
static bool attr(Hot *self, PyObject *node, const struct stat *st, struct fuse_attr *into) {
    if (IS(self, node, gone)) return false;
    int64_t links = (int64_t)st->st_nlink;
    uint32_t uid = st->st_uid, gid = st->st_gid;
    if (NUMBER(self, node, kind) == S_IFDIR)
        links = dir_links(self, node, st);
    else if (links > 1 || IS(self, node, indexed))
        links = base_links(self, node, st);
    if (links < 0) return false;
    if (IS(self, node, upper)) {
        PyObject *number = SLOT(self, node, upper_ino);
        if (PyDict_GET_SIZE(self->modes) && PyDict_Contains(self->modes, number)) return false;
        if (PyDict_GET_SIZE(self->owners) && PyDict_Contains(self->owners, number)) return false;
    }
    if (self->squashes) uid = self->uid, gid = self->gid;
    *into = (struct fuse_attr){
        .ino = (uint64_t)NUMBER(self, node, id),
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .atime = (uint64_t)st->st_atim.tv_sec,
        .mtime = (uint64_t)st->st_mtim.tv_sec,
        .ctime = (uint64_t)st->st_ctim.tv_sec,
        .atimensec = (uint32_t)st->st_atim.tv_nsec,
        .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = (uint32_t)links,
        .uid = uid,
        .gid = gid,
        .rdev = (uint32_t)st->st_rdev,
        .blksize = BLOCK,
    };
    return true;
}

/* What the kernel is told now. */
static void told(Hot *self, PyObject *node, const struct stat *st) {
    if (!IS(self, node, upper) && !is_version(SLOT(self, node, told), st))
        PUT(self, node, told, version_of(st));
}

/* Attributes.entry, and one lookup more; false: unclear */
static bool entry(Hot *self, PyObject *node, const struct stat *st, bool ours,
                  struct fuse_entry_out *into) {
    memset(into, 0, sizeof *into);
    if (!attr(self, node, st, &into->attr)) return false;
    into->nodeid = into->attr.ino;
    into->entry_valid = ours ? OURS : found_lasts(self, node, st);
    into->attr_valid = attr_lasts(self, node, st);
    told(self, node, st);
    PUT_NUMBER(self, node, lookups, NUMBER(self, node, lookups) + 1);
    return true;
}

/* Places.status; false: unclear */
static bool status(Hot *self, PyObject *node, struct stat *st) {
    int fd = (int)NUMBER(self, node, fd);
    if (fd >= 0) return fstat(fd, st) == 0;
    if (is_root(self, node) || SLOT(self, node, more) != Py_None) return false;
    PyObject *parent = SLOT(self, node, parent);
    if (parent == Py_None) return false;
    const char *name = PyBytes_AS_STRING(SLOT(self, node, name));
    if (IS(self, node, upper)) {
        fd = (int)NUMBER(self, node, upper_fd);
        if (fd >= 0) return fstat(fd, st) == 0;
        fd = (int)NUMBER(self, parent, upper_fd);
        return !IS(self, node, indexed) && fd >= 0 &&
               fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) == 0;
    }
    fd = (int)NUMBER(self, parent, lower_fd);
    return fd >= 0 && fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) == 0 &&
           is_key(SLOT(self, node, key), NUMBER(self, node, root), st);
}

/* -- answers --------------------------------------------------------------------------------- */

static Outcome reply2(Hot *self, uint64_t unique, const void *data, size_t length) {
    struct fuse_out_header head = {
        .len = (uint32_t)(sizeof head + length), .error = 0, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, length}};
    /* The kernel does not want every answer: a process was killed, the mount is going away. */
    (void)!writev(self->fd, parts, length ? 2 : 1);
    return DONE;
}

static Outcome fail(Hot *self, uint64_t unique, int error) {
    struct fuse_out_header head = {.len = sizeof head, .error = -error, .unique = unique};
    (void)!write(self->fd, &head, sizeof head);
    return DONE;
}

/* What a call of a Python method came to; its result is not wanted. */
static Outcome called(PyObject *result) {
    if (result == NULL) return BROKEN;
    Py_DECREF(result);
    return DONE;
}

static Outcome collect(Hot *self, PyObject *node) {
    if (NUMBER(self, node, lookups) || NUMBER(self, node, opens) || NUMBER(self, node, refs))
        return DONE;
    return called(PyObject_CallMethodOneArg(self->table, s_collect, node));
}

/* -- requests -------------------------------------------------------------------------------- */

static Outcome do_lookup(Hot *self, const struct fuse_in_header *in, const char *name) {
    PyObject *parent = node_of(self, in->nodeid);
    size_t length = in->len - sizeof *in - 1;
    if (parent == NULL || length > NAME_MOST || NUMBER(self, parent, root) < 0) return DECLINE;
    if (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'))) return DECLINE;
    if (NUMBER(self, parent, watch) == 0 && !is_none(self->tree, s_watcher)) return DECLINE;
    struct stat st;
    Found found = find(self, parent, name, &st);
    if (found == UNCLEAR) return DECLINE;
    if (found == ABSENT) {
        PyObject *absent = PyList_GET_ITEM(self->absent, NUMBER(self, parent, root));
        return reply2(self, in->unique, PyBytes_AS_STRING(absent),
                      (size_t)PyBytes_GET_SIZE(absent));
    }
    PyObject *node = entry_node(self, parent, name, length, NULL, &st, found);
    struct fuse_entry_out out;
    if (node == NULL || !entry(self, node, &st, found == UPPER, &out)) return DECLINE;
    return reply2(self, in->unique, &out, sizeof out);
}

static Outcome do_getattr(Hot *self, const struct fuse_in_header *in) {
    PyObject *node = node_of(self, in->nodeid);
    struct fuse_attr_out out = {0};
    struct stat st;
    if (node == NULL || NUMBER(self, node, root) < 0 || !status(self, node, &st) ||
        !attr(self, node, &st, &out.attr))
        return DECLINE;
    out.attr_valid = attr_lasts(self, node, &st);
    told(self, node, &st);
    return reply2(self, in->unique, &out, sizeof out);
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

static Outcome do_forget(Hot *self, const struct fuse_in_header *in,
                         const struct fuse_forget_in *body) {
    return forget_one(self, in->nodeid, body->nlookup);
}

static Outcome do_batch_forget(Hot *self, const struct fuse_batch_forget_in *body) {
    const struct fuse_forget_one *one = (const void *)(body + 1);
    for (uint32_t each = 0; each < body->count; each++)
        if (forget_one(self, one[each].nodeid, one[each].nlookup) != DONE) return BROKEN;
    return DONE;
}

/* Data._is_as_read, of a live base file that is open. */
static bool is_as_read(Hot *self, PyObject *node, const struct stat *st) {
    PyObject *was = SLOT(self, node, version);
    bool same = was == Py_None || is_version(was, st);
    if (was == Py_None || !same) PUT(self, node, version, version_of(st));
    return same && is_version(SLOT(self, node, told), st);
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
        PyObject *st = path ? PyObject_CallFunction(os_fstat, "i", fd) : NULL;
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

static Outcome do_open(Hot *self, const struct fuse_in_header *in,
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
        PyObject *parent = SLOT(self, node, parent);
        if (!IS(self, node, readable) || parent == Py_None || SLOT(self, node, more) != Py_None)
            return DECLINE;
        if (!is_stable(self, node)) { /* is it still where it was? */
            int where = (int)NUMBER(self, parent, lower_fd);
            const char *name = PyBytes_AS_STRING(SLOT(self, node, name));
            if (where < 0 || fstatat(where, name, &st, AT_SYMLINK_NOFOLLOW) ||
                !is_key(SLOT(self, node, key), NUMBER(self, node, root), &st) || fstat(fd, &st))
                return DECLINE;
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
    if (!same) {
        Outcome outcome = called(
            PyObject_CallMethodOneArg(self->view, s_forget_attributes, SLOT(self, node, id)));
        if (outcome != DONE) return outcome;
    }
    struct fuse_open_out out = {
        .fh = (uint64_t)NUMBER(self, node, id) << 1 | kills,
        .open_flags = same ? FOPEN_KEEP_CACHE : 0,
    };
    return reply2(self, in->unique, &out, sizeof out);
}

static Outcome do_read(Hot *self, const struct fuse_in_header *in,
                       const struct fuse_read_in *body) {
    PyObject *node = node_of(self, body->fh >> 1);
    if (node == NULL || !IS(self, node, readable) || body->size > BUFFER) return DECLINE;
    int fd = (int)NUMBER(self, node, fd);
    if (fd < 0) return DECLINE;
    if (!IS(self, node, upper) && !is_stable(self, node)) {
        struct stat st;
        if (fstat(fd, &st)) return DECLINE;
        if (!is_as_read(self, node, &st)) {
            Outcome outcome = called(PyObject_CallMethodOneArg(self->view, s_forget_attributes,
                                                               SLOT(self, node, id)));
            if (outcome != DONE) return outcome;
        }
    }
    ssize_t done = pread(fd, self->out, body->size, (off_t)body->offset);
    return done < 0 ? fail(self, in->unique, errno)
                    : reply2(self, in->unique, self->out, (size_t)done);
}

static Outcome do_write(Hot *self, const struct fuse_in_header *in,
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
    return reply2(self, in->unique, &out, sizeof out);
}

static Outcome do_release(Hot *self, const struct fuse_in_header *in,
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
    return reply2(self, in->unique, NULL, 0);
}

/* Where a file can simply be made: in a directory of the layer without default ACL, under a name
 * that nothing has or had.  The directory's descriptor, or -1. */
static int open_ground(Hot *self, PyObject *parent, const char *name) {
    if (parent == NULL || NUMBER(self, parent, kind) != S_IFDIR || IS(self, parent, gone) ||
        NUMBER(self, parent, root) < 0 || !IS(self, parent, upper) ||
        SLOT(self, parent, acl) != Py_False || strlen(name) > NAME_MOST ||
        strncmp(name, STAGING, sizeof STAGING - 1) == 0)
        return -1;
    if (is_true(self->layer, s_privileged) || !is_true(self->layer, s_passed) ||
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
static Outcome do_create(Hot *self, const struct fuse_in_header *in,
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
    return reply2(self, in->unique, &out, sizeof out);
}

/* Metadata.getxattr, of what the kernel asks for before the first write */
static Outcome do_getxattr(Hot *self, const struct fuse_in_header *in,
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

/* -- directories ----------------------------------------------------------------------------- */

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
static Outcome do_opendir(Hot *self, const struct fuse_in_header *in) {
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
    return reply2(self, in->unique, &out, sizeof out);
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
    if (text[0] == '.' && (length == 1 || (length == 2 && text[1] == '.'))) return -2;
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
static Outcome do_readdirplus(Hot *self, const struct fuse_in_header *in,
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
    PyObject *names = PyObject_CallMethod(self->view, "listed", "OK", listing,
                                          (unsigned long long)body->offset);
    if (parent == NULL || names == NULL || !PyList_Check(names)) {
        PyErr_Clear(); /* it is met again, and told, in Python */
        goto end;
    }
    size_t length = 0;
    for (Py_ssize_t each = (Py_ssize_t)body->offset; each < PyList_GET_SIZE(names); each++) {
        PyObject *name = PyList_GET_ITEM(names, each);
        size_t needs = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET_DIRENTPLUS + (size_t)PyBytes_GET_SIZE(name));
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
    outcome = reply2(self, in->unique, self->out, length);
end:
    Py_XDECREF(parent);
    Py_XDECREF(names);
    Py_DECREF(listing);
    return outcome;
}

/* Directories.releasedir */
static Outcome do_releasedir(Hot *self, const struct fuse_in_header *in,
                             const struct fuse_release_in *body) {
    PyObject *number = PyLong_FromUnsignedLongLong(body->fh);
    if (number == NULL) return BROKEN;
    Outcome outcome = called(PyObject_CallMethodOneArg(self->view, s_end_listing, number));
    Py_DECREF(number);
    return outcome == DONE ? reply2(self, in->unique, NULL, 0) : outcome;
}

static Outcome answer(Hot *self) {
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

/* -- the Python side ------------------------------------------------------------------------- */

#define HELD(X) \
    X(attributes) X(tree) X(layer) X(table) X(by_id) X(uppers) X(lowers) X(dropped) X(copied) \
    X(modes) X(owners) X(covered) X(copies) X(roots) X(stable) X(root_devs) X(base) X(watched) \
    X(absent)

static int hot_traverse(Hot *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->node);
    Py_VISIT(self->model);
    Py_VISIT(self->view);
#define VISIT(name) Py_VISIT(self->name);
    HELD(VISIT)
    return 0;
}

static int hot_clear(Hot *self) {
    Py_CLEAR(self->node);
    Py_CLEAR(self->model);
    Py_CLEAR(self->view);
#define CLEAR(name) Py_CLEAR(self->name);
    HELD(CLEAR)
    return 0;
}

static void hot_dealloc(Hot *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    hot_clear(self);
    if (self->in_buffer.obj) PyBuffer_Release(&self->in_buffer);
    if (self->out) munmap(self->out, BUFFER);
    PyMem_Free(self->all);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Where a class keeps one of its __slots__; -1: it is not one. */
static Py_ssize_t slot_offset(PyTypeObject *type, PyObject *name) {
    PyObject *found = PyDict_GetItemWithError(type->tp_dict, name);
    if (found == NULL || !Py_IS_TYPE(found, &PyMemberDescr_Type)) return -1;
    PyMemberDef *member = ((PyMemberDescrObject *)found)->d_member;
    return member->type == T_OBJECT_EX ? member->offset : -1;
}

static int learn_slots(Hot *self) {
    for (int each = 0; each < N_COUNT; each++) {
        PyObject *name = PyUnicode_FromString(node_slots[each]);
        if (name == NULL) return -1;
        self->offsets[each] = slot_offset(self->node, name);
        Py_DECREF(name);
        if (self->offsets[each] < 0) {
            PyErr_Format(PyExc_TypeError, "nodes have no slot %s", node_slots[each]);
            return -1;
        }
    }
    PyObject *slots = PyDict_GetItemString(self->node->tp_dict, "__slots__");
    if (slots == NULL || !PyTuple_Check(slots)) {
        PyErr_SetString(PyExc_TypeError, "nodes have no __slots__");
        return -1;
    }
    self->all_count = PyTuple_GET_SIZE(slots);
    self->all = PyMem_Calloc((size_t)self->all_count, sizeof *self->all);
    if (self->all == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t each = 0; each < self->all_count; each++) {
        self->all[each] = slot_offset(self->node, PyTuple_GET_ITEM(slots, each));
        if (self->all[each] < 0) {
            PyErr_SetString(PyExc_TypeError, "a slot of a node is not a slot");
            return -1;
        }
    }
    return 0;
}

static int hot_init(Hot *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"view", "fd", "buffer", "model", NULL};
    PyObject *view, *buffer, *model;
    int fd;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OiOO", names, &view, &fd, &buffer, &model))
        return -1;
    if (self->view != NULL) {
        PyErr_SetString(PyExc_TypeError, "a Hot is made once");
        return -1;
    }
    if (PyObject_GetBuffer(buffer, &self->in_buffer, PyBUF_WRITABLE) < 0) return -1;
    self->in = self->in_buffer.buf;
    self->in_size = self->in_buffer.len;
    self->out = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (self->out == MAP_FAILED) {
        self->out = NULL;
        PyErr_NoMemory();
        return -1;
    }
    self->fd = fd;
    self->view = Py_NewRef(view);
    self->model = Py_NewRef(model);
    self->node = (PyTypeObject *)Py_NewRef(Py_TYPE(model));
    return learn_slots(self);
}

static int hold(PyObject **into, PyObject *from, const char *name, PyTypeObject *type) {
    PyObject *found = PyObject_GetAttrString(from, name);
    if (found == NULL) return -1;
    if (type != NULL && !Py_IS_TYPE(found, type)) {
        PyErr_Format(PyExc_TypeError, "%s is no %s", name, type->tp_name);
        Py_DECREF(found);
        return -1;
    }
    put(into, found);
    return 0;
}

/* Look at the view anew: its attributes are made anew whenever it goes over to another layer. */
static int bind(Hot *self) {
    PyObject *attributes = PyObject_GetAttr(self->view, s_attributes);
    if (attributes == NULL) return -1;
    if (attributes == self->attributes) {
        Py_DECREF(attributes);
        return 0;
    }
    PyObject *ledger = NULL, *squash = NULL;
    int failed = hold(&self->tree, self->view, "tree", NULL) ||
                 hold(&self->layer, self->tree, "layer", NULL) ||
                 hold(&self->table, self->tree, "table", NULL) ||
                 hold(&self->roots, self->tree, "roots", &PyList_Type) ||
                 hold(&self->stable, self->tree, "stable", &PyList_Type) ||
                 hold(&self->root_devs, self->tree, "root_devs", &PyList_Type) ||
                 hold(&self->by_id, self->table, "by_id", &PyDict_Type) ||
                 hold(&self->uppers, self->table, "uppers", &PyDict_Type) ||
                 hold(&self->lowers, self->table, "lowers", &PyDict_Type) ||
                 hold(&self->dropped, self->table, "dropped", &PyList_Type) ||
                 hold(&self->base, attributes, "base", &PyList_Type) ||
                 hold(&self->watched, attributes, "watched", &PyList_Type) ||
                 hold(&self->absent, attributes, "absent", &PyList_Type) ||
                 hold(&ledger, attributes, "ledger", NULL) ||
                 hold(&self->copied, ledger, "copied", &PyDict_Type) ||
                 hold(&self->copies, ledger, "copies", &PyDict_Type) ||
                 hold(&self->covered, ledger, "covered", &PyDict_Type) ||
                 hold(&self->modes, ledger, "modes", &PyDict_Type) ||
                 hold(&self->owners, ledger, "owners", &PyDict_Type) ||
                 hold(&squash, attributes, "squash", NULL);
    if (!failed) {
        self->squashes = squash != Py_None;
        if (self->squashes) failed = !PyArg_ParseTuple(squash, "II", &self->uid, &self->gid);
    }
    Py_XDECREF(squash);
    Py_XDECREF(ledger);
    if (failed)
        Py_DECREF(attributes);
    else
        put(&self->attributes, attributes);
    return failed ? -1 : 0;
}

static int tidy(Hot *self) {
    if (PyList_GET_SIZE(self->dropped) == 0) return 0;
    return called(PyObject_CallMethodNoArgs(self->tree, s_tidy)) == DONE ? 0 : -1;
}

/* Whether a request is there, after at most so many milliseconds.
 *
 * The next request mostly follows within microseconds, and to sleep and be woken for it takes
 * longer than that, on both sides.  So look again for a moment before poll(2), as a kernel does
 * before it halts a processor, letting whoever wants the processor have it.  That moment grows
 * while it pays, and shrinks while it does not. */
static bool wait_for_request(Hot *self, int moment) {
    struct pollfd ready = {.fd = self->fd, .events = POLLIN};
    if (moment == 0) return poll(&ready, 1, 0) != 0;
    int64_t begin = monotonic(), passed = 0;
    while (passed < self->patience) {
        if (poll(&ready, 1, 0)) return true;
        sched_yield();
        passed = monotonic() - begin;
    }
    bool found = poll(&ready, 1, moment) != 0;
    passed = monotonic() - begin;
    self->patience = passed < PATIENCE_NS ? PATIENCE_NS : self->patience / 2;
    return found;
}

/* The length of the next request in the buffer; 0: none came in time, -1: error (errno) */
static ssize_t next_request(Hot *self, int moment) {
    for (bool waited = false;;) {
        ssize_t length = read(self->fd, self->in, (size_t)self->in_size);
        if (length >= 0) return length;
        if (errno == EINTR || errno == ENOENT) {
            if (PyErr_CheckSignals()) return -1;
            continue;
        }
        if (errno != EAGAIN) return -1;
        if (waited) return 0;
        Py_BEGIN_ALLOW_THREADS
        wait_for_request(self, moment);
        Py_END_ALLOW_THREADS
        waited = true;
    }
}

/* Answer requests until there is something to tell: what run returns.  An error that Python's
 * methods did not expect is EIO to whoever asked, and the lane's to tell. */
static PyObject *serve(Hot *self, int moment, int most, uint64_t *served) {
    while (self->turn < most) {
        ssize_t length = next_request(self, moment);
        if (length == 0) self->turn = 0;
        if (length == 0) return PyLong_FromLong(0);
        if (length < 0) return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
        if (bind(self)) return NULL; /* others may have run meanwhile */
        self->turn++;
        Outcome outcome = answer(self);
        if (outcome == BROKEN) {
            const struct fuse_in_header *in = (const void *)self->in;
            if (in->opcode != FUSE_FORGET && in->opcode != FUSE_BATCH_FORGET)
                fail(self, in->unique, EIO);
            return NULL;
        }
        if (outcome == DECLINE) {
            PyErr_Clear();
            return PyLong_FromSsize_t(length);
        }
        ++*served;
        if (tidy(self)) return NULL;
    }
    self->turn = 0;
    Py_RETURN_NONE;
}

static PyObject *hot_run(Hot *self, PyObject *args) {
    int moment, most;
    if (!PyArg_ParseTuple(args, "ii", &moment, &most)) return NULL;
    uint64_t served = 0;
    PyObject *result = serve(self, moment, most, &served);
    if (result != NULL && served &&
        (add(self->view, s_requests, served) || add(self->view, s_plain, served)))
        Py_CLEAR(result);
    return result;
}

PyDoc_STRVAR(hot_doc,
"Hot(view, fd, buffer, model)\n--\n\n"
"Answers the plain ones among the requests that come from ``fd`` for ``view``.\n\n"
"``buffer`` takes one request at a time, ``model`` is a node as ``Node()`` makes it.  Raises\n"
"TypeError where the classes are not what they were when this was written.");

PyDoc_STRVAR(run_doc,
"run(moment, most)\n--\n\n"
"Answer up to ``most`` requests.  Returns the length of one in the buffer that is not for us;\n"
"0 if none came for ``moment`` milliseconds; None after ``most``, those that were not for us\n"
"among them.  Raises OSError (ENODEV: the mount is no more).");

static PyMethodDef hot_methods[] = {
    {"run", (PyCFunction)hot_run, METH_VARARGS, run_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot hot_type_slots[] = {
    {Py_tp_doc, (void *)hot_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, hot_init},
    {Py_tp_dealloc, hot_dealloc},
    {Py_tp_traverse, hot_traverse},
    {Py_tp_clear, hot_clear},
    {Py_tp_methods, hot_methods},
    {0, NULL},
};

static PyType_Spec hot_spec = {
    .name = "goexfsd.view._hot.Hot",
    .basicsize = sizeof(Hot),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = hot_type_slots,
};

static int intern_names(void) {
    const struct { PyObject **into; const char *text; } names[] = {
        {&s_requests, "requests"}, {&s_plain, "plain"}, {&s_changes, "changes"}, {&s_quota, "quota"},
        {&s_privileged, "privileged"}, {&s_step, "step"}, {&s_reads, "reads"},
        {&s_known, "known"}, {&s_through, "through"}, {&s_watcher, "watcher"},
        {&s_attributes, "attributes"}, {&s_listings, "listings"}, {&s_listed, "listed"},
        {&s_told_of, "told_of"}, {&s_tidy, "tidy"}, {&s_collect, "collect"},
        {&s_forget_attributes, "forget_attributes"}, {&s_note, "note"},
        {&s_lower_file, "lower_file"}, {&s_passed, "_passed"}, {&s_node, "node"}, {&s_when, "when"},
        {&s_parts, "parts"}, {&s_begin_listing, "begin_listing"}, {&s_end_listing, "end_listing"},
    };
    for (size_t each = 0; each < sizeof names / sizeof *names; each++) {
        *names[each].into = PyUnicode_InternFromString(names[each].text);
        if (*names[each].into == NULL) return -1;
    }
    return 0;
}

static int hot_exec(PyObject *module) {
    PyObject *os = PyImport_ImportModule("os");
    if (os == NULL) return -1;
    os_fstat = PyObject_GetAttrString(os, "fstat");
    Py_DECREF(os);
    if (os_fstat == NULL || intern_names()) return -1;
    PyObject *type = PyType_FromSpec(&hot_spec);
    if (type == NULL) return -1;
    int failed = PyModule_AddObjectRef(module, "Hot", type);
    Py_DECREF(type);
    PyObject *known = Py_BuildValue("(yLLLKi)", STAGING, FRESH_NS, (long long)OURS,
                                    (long long)WORTH_PASSING, CREATED, NUMBER_BITS);
    if (known == NULL) return -1;
    failed |= PyModule_AddObjectRef(module, "KNOWN", known);
    Py_DECREF(known);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, hot_exec}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_hot",
    .m_doc = "Plain requests, answered without the interpreter (hot.c).",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hot(void) { return PyModuleDef_Init(&module); }
