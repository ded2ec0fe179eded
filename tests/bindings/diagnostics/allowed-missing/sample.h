#define SAMPLE (NO_SUCH + 1)
#define OTHER 1
