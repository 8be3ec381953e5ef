"""Side by side measurements of goexfs, the native file system and rivals; see ../README.md."""
