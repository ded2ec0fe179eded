#define SAMPLE (O_RDWR | 8)
