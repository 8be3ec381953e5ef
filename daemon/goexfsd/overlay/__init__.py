"""The kernel view: the kernel's overlayfs over the same kind of layer as the FUSE view's."""
