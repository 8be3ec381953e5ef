/* Where entries are, and which nodes they are: places.py and tree.py, of what is plain. */

#include "hot.h"

static bool is_whiteout(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == 0; }

/* The lower descriptor of a directory that may show the base; -1: it does not, -2: unclear. */
int merged_fd(Hot *self, PyObject *node) {
    if (!IS(self, node, lower)) return -1;
    int fd = (int)NUMBER(self, node, lower_fd);
    if (fd < 0) return -2;
    if (IS(self, node, upper) && !is_root(self, node)) {
        if (monotonic() - NUMBER(self, node, times) > FRESH_NS) return -2;
    }
    return fd;
}

/* Places.find */
Found find(Hot *self, PyObject *parent, const char *name, struct stat *st) {
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
PyObject *fresh_node(Hot *self, PyObject *parent, PyObject *number, PyObject *name, mode_t mode) {
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
PyObject *add_node(Hot *self, PyObject *node, PyObject *index, PyObject *key) {
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
PyObject *entry_node(Hot *self, PyObject *parent, const char *name, size_t length,
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

/* Places.lower_status of a node with one name; false: unclear */
bool lower_status(Hot *self, PyObject *node, struct stat *st) {
    int fd = (int)NUMBER(self, SLOT(self, node, parent), lower_fd);
    const char *name = PyBytes_AS_STRING(SLOT(self, node, name));
    return fd >= 0 && fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) == 0 &&
           is_key(SLOT(self, node, key), NUMBER(self, node, root), st);
}

/* Places.status; false: unclear */
bool status(Hot *self, PyObject *node, struct stat *st) {
    int fd = (int)NUMBER(self, node, fd);
    if (fd >= 0) return fstat(fd, st) == 0;
    if (is_root(self, node) || SLOT(self, node, more) != Py_None) return false;
    PyObject *parent = SLOT(self, node, parent);
    if (parent == Py_None) return false;
    if (IS(self, node, upper)) {
        fd = (int)NUMBER(self, node, upper_fd);
        if (fd >= 0) return fstat(fd, st) == 0;
        fd = (int)NUMBER(self, parent, upper_fd);
        const char *name = PyBytes_AS_STRING(SLOT(self, node, name));
        return !IS(self, node, indexed) && fd >= 0 &&
               fstatat(fd, name, st, AT_SYMLINK_NOFOLLOW) == 0;
    }
    return lower_status(self, node, st);
}
