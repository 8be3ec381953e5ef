/* The Python side: the type Hot, what it holds of a view, and the waiting for requests. */

#include "hot.h"

#include <poll.h>
#include <sched.h>
#include <structmember.h>
#include <sys/mman.h>

#define PATIENCE_NS 30000

#define AS_DEFINITION(name) PyObject *s_##name;
NAMES(AS_DEFINITION)
PyObject *os_module;

static const char *const node_slots[] = {NODE_SLOTS(AS_STRING)};

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
    return learn_slots(self) || bind(self) ? -1 : 0;
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
        self->turn++;
        Outcome outcome = bind(self) ? BROKEN : answer(self); /* others may have run meanwhile */
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
#define INTERN(name) \
    if ((s_##name = PyUnicode_InternFromString(#name)) == NULL) return -1;
    NAMES(INTERN)
    return 0;
}

static int hot_exec(PyObject *module) {
    os_module = PyImport_ImportModule("os");
    if (os_module == NULL || intern_names()) return -1;
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
    .m_doc = "Plain requests, answered without the interpreter (hot.h).",
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__hot(void) { return PyModuleDef_Init(&module); }
