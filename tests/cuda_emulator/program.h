// A program that makes one launch: for sanitizers, which want a process of their own.
//
// KERNELS is a list of {name, function}. Standard input has the launch, the number of arguments, and for
// each whether it is an array, its bytes, and those bytes; standard output gets the arrays afterwards.
// An array lies in a piece of memory of just its size, so a sanitizer sees one byte too many.

#pragma once

#include <cstdio>
#include <vector>

#include "cuda_on_cpu.h"

static void read_exactly(void *to, std::size_t bytes)
{
    if (bytes && std::fread(to, 1, bytes, stdin) != bytes)
        std::exit(3);
}

int main(int, char **words)
{
    static const struct {
        const char *name;
        const char *(*launch)(const cuda_on_cpu::Launch *, void **, const std::size_t *, std::size_t);
    } kernels[] = {KERNELS};
    cuda_on_cpu::Launch launch;
    uint64_t count, header[2];
    read_exactly(&launch, sizeof launch);
    read_exactly(&count, sizeof count);
    std::vector<void *> values(count), pointers(count);
    std::vector<std::size_t> sizes(count), array_bytes(count);
    for (uint64_t i = 0; i < count; ++i) {
        read_exactly(header, sizeof header);
        void *value = nullptr;
        if (posix_memalign(&value, 256, header[1]))  // cudaMalloc aligns so
            return 3;
        read_exactly(value, header[1]);
        values[i] = value;
        pointers[i] = header[0] ? &values[i] : value;
        sizes[i] = header[0] ? sizeof(void *) : header[1];
        array_bytes[i] = header[0] ? header[1] : 0;
    }
    for (const auto &kernel : kernels)
        if (!std::strcmp(kernel.name, words[1])) {
            if (const char *error = kernel.launch(&launch, pointers.data(), sizes.data(), count)) {
                std::fprintf(stderr, "%s\n", error);
                return 4;
            }
            for (uint64_t i = 0; i < count; ++i)
                std::fwrite(values[i], 1, array_bytes[i], stdout);
            return 0;
        }
    return 3;
}
