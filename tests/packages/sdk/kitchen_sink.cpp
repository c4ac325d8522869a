#include "../../native/kitchen_sink.c" // the same package, compiled as C++
