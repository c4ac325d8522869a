/* A library for LD_PRELOAD with which no thread starts. */
#include <errno.h>
#include <pthread.h>

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    return EAGAIN;
}
