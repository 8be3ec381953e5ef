/* What stat shows: attributes.py, of what is plain. */

#include "hot.h"

#define BLOCK 4096

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
uint64_t attr_lasts(Hot *self, PyObject *node, const struct stat *st) {
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
bool attr(Hot *self, PyObject *node, const struct stat *st, struct fuse_attr *into) {
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
void told(Hot *self, PyObject *node, const struct stat *st) {
    if (!IS(self, node, upper) && !is_version(SLOT(self, node, told), st))
        PUT(self, node, told, version_of(st));
}

/* Attributes.entry, and one lookup more; false: unclear */
bool entry(Hot *self, PyObject *node, const struct stat *st, bool ours,
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
