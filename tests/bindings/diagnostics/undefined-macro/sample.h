#define SAMPLE (NO_SUCH + 1)
