/* The yardstick: a libfuse program that caches nothing. It serves the files `status` and `live`
 * (read without the page cache), and the directories `100` and `10000` of as many files.
 *
 * Usage: nocache MOUNTPOINT [-f] [-o OPTIONS]; build: cc -O2 nocache.c $(pkg-config --cflags --libs fuse3)
 */
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STATUS = 2, LIVE, FEW, MANY, FIRST = 1 << 20 }; /* FIRST + n: file n of either directory */

static const struct {
    const char *name;
    fuse_ino_t ino;
    size_t files;
} NAMES[] = {{"status", STATUS, 0}, {"live", LIVE, 0}, {"100", FEW, 100}, {"10000", MANY, 10000}};

static char content[512]; /* about as long as /proc/PID/status */

static size_t files_of(fuse_ino_t ino)
{
    return ino == FEW ? 100 : ino == MANY ? 10000 : 0;
}

static int fill(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = ino;
    st->st_uid = getuid();
    st->st_gid = getgid();
    if (ino == FUSE_ROOT_ID || files_of(ino)) {
        st->st_mode = S_IFDIR | 0755;
        st->st_nlink = 2;
    } else if (ino == STATUS || ino == LIVE || ino >= FIRST) {
        st->st_mode = S_IFREG | 0444;
        st->st_nlink = 1;
        st->st_size = ino == LIVE ? 0 : sizeof content;
    } else {
        return -1;
    }
    return 0;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry;
    size_t i;
    memset(&entry, 0, sizeof entry);
    for (i = 0; parent == FUSE_ROOT_ID && i < sizeof NAMES / sizeof *NAMES; i++)
        if (!strcmp(name, NAMES[i].name))
            entry.ino = NAMES[i].ino;
    if (files_of(parent) && *name >= '0' && *name <= '9' && (i = atoi(name)) < files_of(parent))
        entry.ino = FIRST + i;
    if (!entry.ino) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fill(entry.ino, &entry.attr);
    fuse_reply_entry(req, &entry);
}

static void do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct stat st;
    (void)fi;
    if (fill(ino, &st))
        fuse_reply_err(req, ENOENT);
    else
        fuse_reply_attr(req, &st, 0.0);
}

static void do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fi->direct_io = ino == LIVE;
    fuse_reply_open(req, fi);
}

static void do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    if (off >= (off_t)sizeof content)
        fuse_reply_buf(req, NULL, 0);
    else if (off + size > sizeof content)
        fuse_reply_buf(req, content + off, sizeof content - off);
    else
        fuse_reply_buf(req, content + off, size);
}

static void do_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    fuse_reply_err(req, 0);
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, int plus)
{
    size_t used = 0, left = files_of(ino), one;
    char *buffer = malloc(size), name[24];
    struct fuse_entry_param entry;

    for (; (size_t)off < left; off++) {
        memset(&entry, 0, sizeof entry);
        entry.ino = FIRST + off;
        fill(entry.ino, &entry.attr);
        snprintf(name, sizeof name, "%zu", (size_t)off);
        one = plus ? fuse_add_direntry_plus(req, buffer + used, size - used, name, &entry, off + 1)
                   : fuse_add_direntry(req, buffer + used, size - used, name, &entry.attr, off + 1);
        if (one > size - used)
            break;
        used += one;
    }
    fuse_reply_buf(req, buffer, used);
    free(buffer);
}

static void do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, off, 0);
}

static void do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                           struct fuse_file_info *fi)
{
    (void)fi;
    list(req, ino, size, off, 1);
}

int main(int argc, char *argv[])
{
    static const struct fuse_lowlevel_ops ops = {
        .lookup = do_lookup,
        .getattr = do_getattr,
        .open = do_open,
        .read = do_read,
        .flush = do_flush,
        .readdir = do_readdir,
        .readdirplus = do_readdirplus,
    };
    struct fuse_args args = FUSE_ARGS_INIT(argc, argv);
    struct fuse_cmdline_opts opts;
    struct fuse_session *session;
    int failed = 1;

    memset(content, 'x', sizeof content - 1);
    content[sizeof content - 1] = '\n';
    if (fuse_parse_cmdline(&args, &opts) || !opts.mountpoint)
        return 2;
    session = fuse_session_new(&args, &ops, sizeof ops, NULL);
    if (session && !fuse_set_signal_handlers(session)) {
        if (!fuse_session_mount(session, opts.mountpoint)) {
            failed = fuse_session_loop(session);
            fuse_session_unmount(session);
        }
        fuse_remove_signal_handlers(session);
    }
    if (session)
        fuse_session_destroy(session);
    fuse_opt_free_args(&args);
    return failed != 0;
}
