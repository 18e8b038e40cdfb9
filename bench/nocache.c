/* The yardstick: a libfuse program that serves one directory with one file and caches nothing.
 *
 * Usage: nocache MOUNTPOINT [-f] [-o OPTIONS]; build: cc -O2 nocache.c $(pkg-config --cflags --libs fuse3)
 */
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fuse_lowlevel.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const NAME = "status";
static char content[512]; /* about as long as /proc/PID/status */

static int fill(fuse_ino_t ino, struct stat *st)
{
    memset(st, 0, sizeof *st);
    st->st_ino = ino;
    st->st_uid = getuid();
    st->st_gid = getgid();
    if (ino == FUSE_ROOT_ID) {
        st->st_mode = S_IFDIR | 0755;
        st->st_nlink = 2;
    } else if (ino == 2) {
        st->st_mode = S_IFREG | 0444;
        st->st_nlink = 1;
        st->st_size = sizeof content;
    } else {
        return -1;
    }
    return 0;
}

static void do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry;
    memset(&entry, 0, sizeof entry);
    if (parent != FUSE_ROOT_ID || strcmp(name, NAME)) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    entry.ino = 2;
    fill(2, &entry.attr);
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
    if (ino != 2)
        fuse_reply_err(req, EISDIR);
    else
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

int main(int argc, char *argv[])
{
    static const struct fuse_lowlevel_ops ops = {
        .lookup = do_lookup,
        .getattr = do_getattr,
        .open = do_open,
        .read = do_read,
        .flush = do_flush,
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
