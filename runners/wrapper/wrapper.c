/* The wrapper: process 1 of the user's container, with the user's program as its child.
 *
 *     uws-wrapper install DIRECTORY
 *     uws-wrapper run CONTROL LOGS LOG_BYTES DURATION GRACE -- PROGRAM [ARGUMENT...]
 *     uws-wrapper init PROGRAM [ARGUMENT...]
 *
 * `install` puts a copy of this file into DIRECTORY, from where the user's container runs it; so it is
 * linked statically and needs nothing of the user's image.
 *
 * `run` waits until the agent has staged in, which makes a file in CONTROL: `go` starts the program,
 * `never` ends without starting it (exit code 125). The program's stdout and stderr go to files of those
 * names in LOGS, each at most LOG_BYTES long: the head as it comes, the last MiB at the end, the gap marked.
 * `started` there holds the instant of the start, `exit` the end: "CODE INSTANT WORD", milliseconds since
 * 1970 UTC and one of `ended`, `stopped` (a signal came), `timed-out` (DURATION seconds were over, 0 = none).
 * Only hints: the user's program can write there as well.
 *
 * Every signal that can be caught is passed on to the program's process group. After SIGTERM (or any
 * signal that ends programs), and after DURATION, everything is killed at half of GRACE seconds, so that the
 * agent has the other half. When the program has ended, whatever it left behind is killed.
 *
 * `init` is process 1 of the agent's container, which waits for the agent and passes signals on. Process 1
 * hears no signal that it has not asked for: an agent that was told to end while Python started would miss it.
 *
 * The exit code is the program's, 128 + N when signal N ended it, 126 or 127 when it could not be started.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { NEVER_STARTED = 125, CANNOT_RUN = 126, NOT_FOUND = 127, USAGE = 2 };
enum { RING = 1 << 20, CHUNK = 1 << 18, MARK_ROOM = 100 };

static char chunk[CHUNK];

static void fail(const char *what)
{
    dprintf(2, "uws-wrapper: %s: %s\n", what, strerror(errno));
    exit(NEVER_STARTED);
}

static long long now_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static int exit_code(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Have every signal wait until it is asked for. */
static void hold_signals(sigset_t *all)
{
    sigfillset(all);
    sigprocmask(SIG_SETMASK, all, NULL);
}

/* In a child: have signals do again what they do by themselves. */
static void let_signals_go(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In a child: the exit code that says why a program could not be started. */
static int why_not_run(int error)
{
    return error == ENOENT || error == ENOTDIR ? NOT_FOUND : CANNOT_RUN;
}

/* -- logs ------------------------------------------------------------------------------------------ */

struct log {
    int pipe;              /* -1 after its end */
    int file;
    long long room;        /* bytes of head that still fit */
    long long left_out;
    char *ring;
    long long ring_size;
    long long ring_total;  /* bytes that ever went into the ring */
};

static void store(struct log *log, const char *data, long long size)
{
    while (size > 0) {
        ssize_t written = write(log->file, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) { /* no space left: what is missing is counted; the program goes on */
            log->left_out += size;
            return;
        }
        data += written;
        size -= written;
    }
}

static void keep(struct log *log, const char *data, long long size)
{
    long long head = size < log->room ? size : log->room;
    store(log, data, head);
    log->room -= head;
    for (data += head, size -= head; size > 0;) {
        long long at = log->ring_total % log->ring_size;
        long long part = log->ring_size - at < size ? log->ring_size - at : size;
        memcpy(log->ring + at, data, part);
        log->ring_total += part;
        data += part;
        size -= part;
    }
}

static void open_log(struct log *log, int directory, const char *name, long long limit, int pipe_end)
{
    unlinkat(directory, name, 0);
    log->file = openat(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (log->file < 0)
        fail(name);
    log->pipe = pipe_end;
    log->ring_size = limit / 4 < RING ? limit / 4 : RING;
    if (log->ring_size < 1)
        log->ring_size = 1;
    log->room = limit - log->ring_size - MARK_ROOM > 0 ? limit - log->ring_size - MARK_ROOM : 0;
    log->ring = malloc(log->ring_size);
    if (log->ring == NULL)
        fail(name);
}

/* Take a chunk of what the pipe holds: the other stream and the signals have their turn in between. */
static void copy(struct log *log)
{
    if (log->pipe < 0)
        return;
    ssize_t got = read(log->pipe, chunk, sizeof chunk);
    if (got > 0) {
        keep(log, chunk, got);
    } else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
        close(log->pipe);
        log->pipe = -1;
    }
}

static void close_log(struct log *log)
{
    long long kept = log->ring_total < log->ring_size ? log->ring_total : log->ring_size;
    long long start = log->ring_total > log->ring_size ? log->ring_total % log->ring_size : 0;
    log->left_out += log->ring_total - kept;
    if (log->left_out > 0) {
        char mark[MARK_ROOM];
        int size = snprintf(mark, sizeof mark, "\n[... %lld bytes of output left out ...]\n", log->left_out);
        store(log, mark, size);
    }
    if (start) {
        store(log, log->ring + start, log->ring_size - start);
        store(log, log->ring, start);
    } else {
        store(log, log->ring, kept);
    }
    close(log->file);
}

/* Replace a file in one step: who reads it sees all of it or nothing. */
static void put(int directory, const char *name, const char *text)
{
    char temporary[32];
    snprintf(temporary, sizeof temporary, ".%s.new", name);
    unlinkat(directory, temporary, 0);
    int file = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0)
        return; /* a hint only, and a full disk must not keep the program from ending as it did */
    ssize_t written = write(file, text, strlen(text));
    close(file);
    if (written == (ssize_t)strlen(text))
        renameat(directory, temporary, directory, name);
}

/* -- the user's program ---------------------------------------------------------------------------- */

/* What somebody sends; not what the kernel says of the wrapper's own doings, as of too large a file. */
static const int passed_on[] = {SIGHUP,  SIGINT, SIGQUIT,  SIGUSR1, SIGUSR2,
                                SIGTERM, SIGPWR, SIGWINCH, SIGCONT, SIGTSTP};

static int ends_programs(int sign)
{
    return sign == SIGTERM || sign == SIGINT || sign == SIGQUIT || sign == SIGHUP || sign == SIGPWR;
}

static pid_t start(char **program, int out, int err)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    let_signals_go();
    setpgid(0, 0);
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, 0);
    dup2(out, 1);
    dup2(err, 2);
    for (int descriptor = 3; descriptor < 64; descriptor++)
        close(descriptor);
    execvp(program[0], program);
    int why = errno;
    dprintf(2, "The program %s could not be started: %s.\n", program[0], strerror(why));
    _exit(why_not_run(why));
}

/* Wait for the agent's word; 1 to go. A signal that ends programs ends the waiting. */
static int may_start(const char *control, int signals)
{
    int news = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    int directory = open(control, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        fail(control);
    if (news >= 0)
        inotify_add_watch(news, control, IN_CREATE | IN_MOVED_TO);
    for (;;) {
        if (faccessat(directory, "never", F_OK, 0) == 0)
            return 0;
        if (faccessat(directory, "go", F_OK, 0) == 0)
            break;
        struct pollfd wait[2] = {{.fd = signals, .events = POLLIN}, {.fd = news, .events = POLLIN}};
        poll(wait, 2, 1000); /* a second's look besides: some file systems tell no news */
        struct signalfd_siginfo came;
        while (read(signals, &came, sizeof came) == sizeof came)
            if (ends_programs((int)came.ssi_signo))
                return 0;
        char events[4096];
        while (news >= 0 && read(news, events, sizeof events) > 0)
            ;
    }
    close(directory);
    if (news >= 0)
        close(news);
    return 1;
}

static int run(char **words)
{
    const char *control = words[0];
    long long log_bytes = atoll(words[2]), duration = atoll(words[3]), grace = atoll(words[4]);
    char **program = words + 6;
    if (getpid() != 1) { /* everything is killed at the end, so everything must be ours */
        dprintf(2, "uws-wrapper: it must be process 1 of a container of its own, not %d\n", getpid());
        return NEVER_STARTED;
    }
    umask(022);
    sigset_t all;
    hold_signals(&all);
    int signals = signalfd(-1, &all, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals < 0)
        fail("signalfd");
    if (!may_start(control, signals))
        return NEVER_STARTED;

    int directory = open(words[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        fail(words[1]);
    int out[2], err[2];
    if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        fail("pipe");
    fcntl(out[0], F_SETPIPE_SZ, 1 << 20);
    fcntl(err[0], F_SETPIPE_SZ, 1 << 20);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    fcntl(err[0], F_SETFL, O_NONBLOCK);
    static struct log logs[2];
    open_log(&logs[0], directory, "stdout", log_bytes, out[0]);
    open_log(&logs[1], directory, "stderr", log_bytes, err[0]);

    char text[96];
    snprintf(text, sizeof text, "%lld\n", now_ms(CLOCK_REALTIME));
    put(directory, "started", text);
    pid_t child = start(program, out[1], err[1]);
    if (child < 0)
        fail("fork");
    setpgid(child, child); /* whoever comes first; signals go to the group */
    close(out[1]);
    close(err[1]);

    long long begun = now_ms(CLOCK_MONOTONIC);
    long long timeout = duration > 0 ? begun + duration * 1000 : -1;
    long long killing = -1; /* when everything is killed */
    const char *word = "ended";
    int status = 0, ended = 0, alone = 0;
    long long ended_at = 0;
    while (!alone) {
        long long now = now_ms(CLOCK_MONOTONIC);
        if (!ended && timeout >= 0 && now >= timeout) {
            word = "timed-out";
            timeout = -1;
            kill(-child, SIGTERM);
            kill(-child, SIGCONT);
            if (killing < 0)
                killing = now + grace * 500;
        }
        if (ended || (killing >= 0 && now >= killing)) {
            kill(-1, SIGKILL);
            killing = now + 100; /* again, should something have been forked at that moment */
        }
        long long next = killing;
        if (!ended && timeout >= 0 && (next < 0 || timeout < next))
            next = timeout;
        long long wait = next < 0 ? -1 : next > now ? next - now : 0;
        struct pollfd polled[3] = {{.fd = signals, .events = POLLIN},
                                   {.fd = logs[0].pipe, .events = POLLIN},
                                   {.fd = logs[1].pipe, .events = POLLIN}};
        poll(polled, 3, wait > 1000000 ? 1000000 : (int)wait);
        copy(&logs[0]);
        copy(&logs[1]);
        struct signalfd_siginfo came;
        while (read(signals, &came, sizeof came) == sizeof came) {
            int sign = (int)came.ssi_signo;
            for (size_t i = 0; i < sizeof passed_on / sizeof *passed_on; i++)
                if (passed_on[i] == sign)
                    kill(-child, sign);
            if (ends_programs(sign)) {
                kill(-child, SIGCONT); /* a stopped program hears nothing else */
                if (killing < 0)
                    killing = now_ms(CLOCK_MONOTONIC) + grace * 500;
                if (!ended && strcmp(word, "ended") == 0)
                    word = "stopped";
            }
        }
        for (;;) {
            int what;
            pid_t gone = waitpid(-1, &what, WNOHANG);
            if (gone < 0 && errno == ECHILD)
                alone = 1;
            if (gone <= 0)
                break;
            if (gone == child) {
                status = what;
                ended = 1;
                ended_at = now_ms(CLOCK_REALTIME);
            }
        }
    }
    while (logs[0].pipe >= 0 || logs[1].pipe >= 0) { /* nobody is left who could write more */
        copy(&logs[0]);
        copy(&logs[1]);
    }
    close_log(&logs[0]);
    close_log(&logs[1]);
    int code = exit_code(status);
    snprintf(text, sizeof text, "%d %lld %s\n", code, ended_at, word);
    put(directory, "exit", text);
    return code;
}

/* -- init ------------------------------------------------------------------------------------------ */

static int init(char **program)
{
    sigset_t all;
    hold_signals(&all);
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        let_signals_go();
        execvp(program[0], program);
        int why = errno;
        dprintf(2, "uws-wrapper: %s: %s\n", program[0], strerror(why));
        _exit(why_not_run(why));
    }
    for (;;) {
        int sign = sigwaitinfo(&all, NULL);
        if (sign > 0 && sign != SIGCHLD)
            kill(child, sign);
        int status;
        for (pid_t gone; (gone = waitpid(-1, &status, WNOHANG)) > 0;)
            if (gone == child)
                return exit_code(status);
    }
}

/* -- install --------------------------------------------------------------------------------------- */

static int install(const char *directory)
{
    int to = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (to < 0 || from < 0)
        fail(directory);
    unlinkat(to, ".uws-wrapper.new", 0);
    int copied = openat(to, ".uws-wrapper.new", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
    if (copied < 0)
        fail(directory);
    for (;;) {
        ssize_t got = read(from, chunk, sizeof chunk);
        if (got == 0)
            break;
        if (got < 0 || write(copied, chunk, got) != got)
            fail(directory);
    }
    fchmod(copied, 0755);
    close(copied); /* a file that is open for writing cannot be run */
    if (renameat(to, ".uws-wrapper.new", to, "uws-wrapper") < 0)
        fail(directory);
    return 0;
}

int main(int count, char **words)
{
    if (count == 3 && strcmp(words[1], "install") == 0)
        return install(words[2]);
    if (count >= 9 && strcmp(words[1], "run") == 0 && strcmp(words[7], "--") == 0)
        return run(words + 2);
    if (count >= 3 && strcmp(words[1], "init") == 0)
        return init(words + 2);
    dprintf(2, "usage: uws-wrapper install DIRECTORY\n"
               "       uws-wrapper run CONTROL LOGS LOG_BYTES DURATION GRACE -- PROGRAM [ARGUMENT...]\n"
               "       uws-wrapper init PROGRAM [ARGUMENT...]\n");
    return USAGE;
}
