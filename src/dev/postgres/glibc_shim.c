/*
 * The functions of glibc 2.38 that the bundled PostgreSQL
 * refers to, for machines whose glibc is older. Preloaded into its programs
 * and nothing else.
 *
 * No system header is included on purpose: recent ones redirect `strtol` and
 * its relatives to the very names that are defined here.
 */

typedef __SIZE_TYPE__ size_t;
typedef __builtin_va_list va_list;
typedef struct paygauge_file FILE;

extern long strtol(const char *, char **, int);
extern unsigned long strtoul(const char *, char **, int);
extern long long strtoll(const char *, char **, int);
extern unsigned long long strtoull(const char *, char **, int);
extern int __isoc99_vsscanf(const char *, const char *, va_list);
extern int __isoc99_vfscanf(FILE *, const char *, va_list);
extern long double fmodl(long double, long double);
extern size_t strlen(const char *);
extern size_t strnlen(const char *, size_t);
extern void *memcpy(void *, const void *, size_t);
extern void __chk_fail(void) __attribute__((noreturn));

long __isoc23_strtol(const char *text, char **end, int base)
{
    return strtol(text, end, base);
}

unsigned long __isoc23_strtoul(const char *text, char **end, int base)
{
    return strtoul(text, end, base);
}

long long __isoc23_strtoll(const char *text, char **end, int base)
{
    return strtoll(text, end, base);
}

unsigned long long __isoc23_strtoull(const char *text, char **end, int base)
{
    return strtoull(text, end, base);
}

int __isoc23_sscanf(const char *text, const char *format, ...)
{
    va_list arguments;
    int matched;

    __builtin_va_start(arguments, format);
    matched = __isoc99_vsscanf(text, format, arguments);
    __builtin_va_end(arguments);
    return matched;
}

int __isoc23_fscanf(FILE *stream, const char *format, ...)
{
    va_list arguments;
    int matched;

    __builtin_va_start(arguments, format);
    matched = __isoc99_vfscanf(stream, format, arguments);
    __builtin_va_end(arguments);
    return matched;
}

/* The remainder of two doubles is a double: nothing is lost on the way. */
double fmod(double dividend, double divisor)
{
    return (double)fmodl(dividend, divisor);
}

size_t strlcpy(char *target, const char *source, size_t size)
{
    size_t length = strlen(source);

    if (size > 0) {
        size_t kept = length < size ? length : size - 1;
        memcpy(target, source, kept);
        target[kept] = '\0';
    }
    return length;
}

size_t strlcat(char *target, const char *source, size_t size)
{
    size_t used = strnlen(target, size);

    if (used == size)
        return size + strlen(source);
    return used + strlcpy(target + used, source, size - used);
}

size_t __strlcpy_chk(char *target, const char *source, size_t size, size_t room)
{
    if (size > room)
        __chk_fail();
    return strlcpy(target, source, size);
}
