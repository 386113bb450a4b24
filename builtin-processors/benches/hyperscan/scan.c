/* Hyperscan in block mode on the five patterns of benches/rules.rs, over the same blocks.
 *
 * Usage: scan FILE...   Each file is lines of 200 bytes; it is scanned 256 KiB at a time. Prints the best
 * time of seven rounds for a line: only whether and where a match ends, and with where it begins
 * (HS_FLAG_SOM_LEFTMOST), which whoever redacts has to know. Nothing is rewritten here.
 */
#include <hs/hs.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LINE = 200, BLOCK = 256 * 1024 / LINE * LINE, ROUNDS = 7 };

static const char *const PATTERNS[] = {
    "\\d{4}[- ]\\d{4}[- ]\\d{4}[- ]\\d{4}",
    "[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\\.[A-Za-z]{2,}",
    "\\d{3}-\\d{2}-\\d{4}",
    "\\b\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}\\b",
    "\\(\\d{3}\\) \\d{3}-\\d{4}",
};
static const unsigned IDS[] = {0, 1, 2, 3, 4};

static int count(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *matches) {
    (void)id, (void)from, (void)to, (void)flags;
    ++*(unsigned long *)matches;
    return 0;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void run(const char *name, const char *text, size_t size, unsigned flag, const char *what) {
    unsigned flags[] = {flag, flag, flag, flag, flag};
    hs_database_t *database;
    hs_compile_error_t *error;
    if (hs_compile_multi(PATTERNS, flags, IDS, 5, HS_MODE_BLOCK, NULL, &database, &error) != HS_SUCCESS) {
        printf("%-40s %-28s not compiled: %s\n", name, what, error->message);
        return;
    }
    hs_scratch_t *scratch = NULL;
    if (hs_alloc_scratch(database, &scratch) != HS_SUCCESS) exit(1);
    double best = 1e9;
    unsigned long matches = 0;
    for (int round = 0; round < ROUNDS; ++round) {
        double spent = 0;
        size_t lines = 0;
        while (spent < 0.15) {
            double begun = seconds();
            matches = 0;
            for (size_t at = 0; at < size; at += BLOCK) {
                size_t length = size - at < BLOCK ? size - at : BLOCK;
                if (hs_scan(database, text + at, length, 0, scratch, count, &matches) != HS_SUCCESS) exit(1);
            }
            spent += seconds() - begun;
            lines += size / LINE;
        }
        if (spent * 1e9 / lines < best) best = spent * 1e9 / lines;
    }
    printf("%-40s %-28s %8.1f ns/line  %lu matches\n", name, what, best, matches);
    hs_free_scratch(scratch);
    hs_free_database(database);
}

int main(int count, char **names) {
    printf("Hyperscan %s\n", hs_version());
    for (int n = 1; n < count; ++n) {
        FILE *file = fopen(names[n], "rb");
        if (!file) return 1;
        fseek(file, 0, SEEK_END);
        size_t size = ftell(file);
        rewind(file);
        char *text = malloc(size);
        if (fread(text, 1, size, file) != size) return 1;
        fclose(file);
        run(names[n], text, size, HS_FLAG_SINGLEMATCH, "whether (single match)");
        run(names[n], text, size, 0, "where matches end");
        run(names[n], text, size, HS_FLAG_SOM_LEFTMOST, "where they begin and end");
        free(text);
    }
}
