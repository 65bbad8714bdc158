// SPDX-License-Identifier: GPL-2.0
/*
 * Marks the blocks of one disk that writes change: `touched` when a write is given to the device, `dirty` when it has
 * completed. One instance of this object is loaded for each protected disk; agent/capture/src/ebpf loads, pins and
 * reads it, docs/decisions/0001-tracker-shape.md says why it looks as it does. Rebuild with packaging/build-bpf.sh.
 *
 * Deliberately not here: any event stream, any allocation, any loop without a bound. A mark is an atomic OR, so
 * setting it twice is setting it once, and nothing can be dropped because nothing is queued.
 *
 * The few kernel types below are declared by hand with the fields that are read and nothing else; CO-RE relocates
 * them to wherever the running kernel has them, so the object needs no kernel headers to build and no fixed kernel to
 * run.
 */

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define inline_always inline __attribute__((always_inline))
#define core __attribute__((preserve_access_index))
#define field_exists(field) __builtin_preserve_field_info(field, 2 /* BPF_FIELD_EXISTS */)

struct gendisk {
	u32 major;
	u32 first_minor;
} core;

struct request_queue {
	struct gendisk *disk;
} core;

struct bvec_iter {
	u64 bi_sector;
	u32 bi_size;
} core;

struct bio {
	struct bio *bi_next;
	struct bvec_iter bi_iter;
} core;

struct blk_mq_hw_ctx {
	u32 queue_num;
} core;

struct request {
	struct request_queue *q;
	struct blk_mq_hw_ctx *mq_hctx;
	u32 cmd_flags;
	int tag;
	u32 __data_len;
	u64 __sector;
	struct bio *bio;
} core;

/* Until 5.16 the disk hung off the request (kernel commit f3fa33acca9f). */
struct request___before_5_17 {
	struct gendisk *rq_disk;
} core;

/* include/linux/blk_types.h, enum req_op. Bit 0 has always meant "changes data". */
enum {
	OP_WRITE = 1,
	OP_DISCARD = 3,
	OP_SECURE_ERASE = 5,
	OP_WRITE_ZEROES = 9,
	OP_MASK = 0xff,
};

enum {
	SECTORS_PER_BLOCK_SHIFT = 3,
	SECTOR_SHIFT = 9,
	BLOCK_SHIFT = 12,
	/* Blocks that one word of the summary's bit stands for: 64 words of 64 blocks. */
	GROUP_WORDS = 64,
	/* A request's length is a u32, so it spans at most 2^32 / 4096 / 64 words, and one more where it is not aligned. */
	MAX_GROUPS = 16384 / GROUP_WORDS + 2,
	/* NVMe takes at most 256 ranges in one discard (NVME_DSM_MAX_RANGES); the other drivers take fewer. */
	MAX_DISCARD_RANGES = 256,
};

/* Filled in by the loader before the program is loaded, constant from then on. */
const volatile u32 major;
const volatile u32 first_minor;
const volatile u64 blocks;
const volatile u32 words;
const volatile u32 queues;
const volatile u32 tags;
/* Rounds that the programs idle inside themselves. Always 0, but for the test that forces missed runs. */
const volatile u32 spin;

/*
 * Word i covers blocks 64 i .. 64 i + 63. After the `words` words of blocks comes the summary: one bit for each group
 * of 64 words, set after any bit in the group, so that reading a bitmap of 32 MiB touches only what changed.
 */
struct bitmap {
	int (*type)[2 /* BPF_MAP_TYPE_ARRAY */];
	int (*map_flags)[1024 /* BPF_F_MMAPABLE */];
	u32 *key;
	u64 *value;
	int (*max_entries)[1];
};

struct bitmap dirty SEC(".maps");
struct bitmap touched SEC(".maps");
/* Written by user space alone; it is here so that it is made, sized and pinned with the others. */
struct bitmap pending SEC(".maps");

/*
 * The writes that are with the device now, by hardware queue and tag: while a request has its tag no other request of
 * the queue has it. A slot whose range is 0 is free. A block whose write was in flight when the bitmaps were read is read
 * once more later, so that a write whose completion never comes to these programs' notice is not lost.
 */
struct flight {
	/* First block << 24 | number of blocks; EVERYWHERE where the request has several ranges. */
	u64 range;
	/* Grows with each use, so that a slot that was never freed can be told from one in use again. */
	u64 use;
};

#define EVERYWHERE 0xffffffULL

struct {
	int (*type)[2 /* BPF_MAP_TYPE_ARRAY */];
	int (*map_flags)[1024 /* BPF_F_MMAPABLE */];
	u32 *key;
	struct flight *value;
	int (*max_entries)[1];
} flights SEC(".maps");

struct counts {
	/* Writes without a range (SG_IO, NVMe passthrough), and operations this program does not know. */
	u64 unranged;
	/* Marks that reached past the end of the disk as it was when the tracker was loaded. */
	u64 out_of_range;
	/* Writes without a slot in `flights`: the device has more queues or tags than when the table was sized. */
	u64 untabled;
};

struct {
	int (*type)[2 /* BPF_MAP_TYPE_ARRAY */];
	u32 *key;
	struct counts *value;
	int (*max_entries)[1];
} counts SEC(".maps");

/* What the tracker is of; written by user space alone. */
struct {
	int (*type)[2 /* BPF_MAP_TYPE_ARRAY */];
	u32 *key;
	u8 (*value)[256];
	int (*max_entries)[1];
} state SEC(".maps");

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;

static inline_always void count_unranged(void)
{
	u32 key = 0;
	struct counts *c = bpf_map_lookup_elem(&counts, &key);

	if (c)
		__sync_fetch_and_add(&c->unranged, 1);
}

static inline_always void count_out_of_range(void)
{
	u32 key = 0;
	struct counts *c = bpf_map_lookup_elem(&counts, &key);

	if (c)
		__sync_fetch_and_add(&c->out_of_range, 1);
}

static inline_always void count_untabled(void)
{
	u32 key = 0;
	struct counts *c = bpf_map_lookup_elem(&counts, &key);

	if (c)
		__sync_fetch_and_add(&c->untabled, 1);
}

static inline_always void set(void *map, u32 word, u64 mask)
{
	u64 *bits = bpf_map_lookup_elem(map, &word);

	if (bits)
		__sync_fetch_and_or(bits, mask);
}

static inline_always void set_summary(void *map, u32 word)
{
	set(map, words + (word >> 12), 1ULL << (word >> 6 & 63));
}

/*
 * For each bitmap three functions; the first two are global, not static, so that the verifier checks each once by itself
 * instead of walking every round of every loop of every caller.
 */
#define DEFINE_MARK(map)                                                                            \
	__attribute__((noinline)) int map##_group(u32 word, u32 count)                              \
	{                                                                                           \
		for (u32 i = 0; i < GROUP_WORDS; i++) {                                             \
			if (i >= count)                                                             \
				break;                                                              \
			set(&map, word + i, ~0ULL);                                                 \
		}                                                                                   \
		if (count)                                                                          \
			set_summary(&map, word);                                                    \
		return 0;                                                                           \
	}                                                                                           \
                                                                                                    \
	/* Blocks first ..= last, which lie in more than one word. */                               \
	__attribute__((noinline)) int map##_span(u64 first, u64 last)                               \
	{                                                                                           \
		u32 word = first >> 6, end = last >> 6;                                             \
                                                                                                    \
		set(&map, word, ~0ULL << (first & 63));                                             \
		set_summary(&map, word);                                                            \
		set(&map, end, ~0ULL >> (63 - (last & 63)));                                        \
		set_summary(&map, end);                                                             \
		word++;                                                                             \
		for (u32 i = 0; i < MAX_GROUPS; i++) {                                              \
			u32 count = GROUP_WORDS - word % GROUP_WORDS;                               \
                                                                                                    \
			if (word >= end)                                                            \
				break;                                                              \
			if (count > end - word)                                                     \
				count = end - word;                                                 \
			map##_group(word, count);                                                   \
			word += count;                                                              \
		}                                                                                   \
		return 0;                                                                           \
	}                                                                                           \
                                                                                                    \
	static inline_always void map##_mark(u64 sector, u32 bytes)                                 \
	{                                                                                           \
		u64 first = sector >> SECTORS_PER_BLOCK_SHIFT, last;                                \
                                                                                                    \
		/* A flush carries no data, and a sector of 2^64 - 1. */                            \
		if (!bytes)                                                                         \
			return;                                                                     \
		if (first >= blocks) {                                                              \
			count_out_of_range();                                                       \
			return;                                                                     \
		}                                                                                   \
		last = ((sector << SECTOR_SHIFT) + bytes - 1) >> BLOCK_SHIFT;                       \
		if (last >= blocks) {                                                               \
			count_out_of_range();                                                       \
			last = blocks - 1;                                                          \
		}                                                                                   \
		if (first >> 6 == last >> 6) {                                                      \
			set(&map, first >> 6, ~0ULL << (first & 63) & ~0ULL >> (63 - (last & 63))); \
			set_summary(&map, first >> 6);                                              \
		} else {                                                                            \
			map##_span(first, last);                                                    \
		}                                                                                   \
	}                                                                                           \
                                                                                                    \
	/* Global too, for it is called in a loop. */                                               \
	__attribute__((noinline)) int map##_range(u64 sector, u32 bytes)                            \
	{                                                                                           \
		map##_mark(sector, bytes);                                                          \
		return 0;                                                                           \
	}                                                                                           \
                                                                                                    \
	/*                                                                                          \
	 * A discard request can carry many bios that are not adjacent (bio_attempt_discard_merge); \
	 * its own sector and length then say nothing. Both tracepoints fire while the list of bios \
	 * is whole, so each bio's range is marked.                                                 \
	 */                                                                                         \
	static inline_always void map##_discard(struct request *rq)                                 \
	{                                                                                           \
		struct bio *bio = rq->bio;                                                          \
                                                                                                    \
		for (u32 i = 0; i < MAX_DISCARD_RANGES; i++) {                                      \
			if (!bio)                                                                   \
				return;                                                             \
			map##_range(bio->bi_iter.bi_sector, bio->bi_iter.bi_size);                  \
			bio = bio->bi_next;                                                         \
		}                                                                                   \
		count_unranged();                                                                   \
	}                                                                                           \
                                                                                                    \
	static inline_always void map##_request(struct request *rq, u32 op, u32 bytes)              \
	{                                                                                           \
		if (op == OP_DISCARD)                                                               \
			map##_discard(rq);                                                          \
		else if (op == OP_WRITE || op == OP_SECURE_ERASE || op == OP_WRITE_ZEROES)          \
			map##_mark(rq->__sector, bytes);                                            \
		else                                                                                \
			count_unranged();                                                           \
	}

DEFINE_MARK(dirty)
DEFINE_MARK(touched)

static inline_always int is_ours(struct request *rq)
{
	struct gendisk *disk;

	if (field_exists(((struct request___before_5_17 *)0)->rq_disk))
		disk = ((struct request___before_5_17 *)rq)->rq_disk;
	else
		disk = rq->q->disk;
	return disk->first_minor == first_minor && disk->major == major;
}

static inline_always struct flight *flight_of(struct request *rq)
{
	u32 queue = rq->mq_hctx->queue_num, tag = rq->tag, slot = queue * tags + tag;

	if (queue >= queues || tag >= tags)
		return 0;
	return bpf_map_lookup_elem(&flights, &slot);
}

static inline_always void depart(struct request *rq, u32 op)
{
	u64 first = rq->__sector >> SECTORS_PER_BLOCK_SHIFT, end;
	struct flight *flight;
	struct bio *bio;

	/* A flush of its own; with data, a request that is flushed before has the data's range. */
	if (!rq->__data_len)
		return;
	flight = flight_of(rq);
	if (!flight) {
		count_untabled();
		return;
	}
	end = ((rq->__sector << SECTOR_SHIFT) + rq->__data_len + (1 << BLOCK_SHIFT) - 1) >> BLOCK_SHIFT;
	bio = rq->bio;
	flight->use++;
	/* An exchange, for it is ordered on every processor: a reader that sees the range sees the use. */
	__sync_lock_test_and_set(&flight->range,
				 op == OP_DISCARD && bio && bio->bi_next ? EVERYWHERE : first << 24 | (end - first));
}

static inline_always void arrive(struct request *rq, u32 bytes)
{
	struct flight *flight;

	/* A request may complete in parts. */
	if (bytes < rq->__data_len)
		return;
	flight = flight_of(rq);
	if (flight)
		*(volatile u64 *)&flight->range = 0;
}

/* Keeps the program running for a while, so that something can interrupt it. */
static inline_always void linger(void)
{
	for (u32 i = 0; i < 100000; i++) {
		if (i >= spin)
			break;
		asm volatile("" ::: "memory");
	}
}

static inline_always void issued(u64 *ctx)
{
	struct request *rq = (struct request *)ctx[0];
	u32 op = rq->cmd_flags & OP_MASK;

	if (!(op & 1) || !is_ours(rq))
		return;
	/* Before the mark, so that a write that was marked and has not completed is seen to be in flight. */
	depart(rq, op);
	touched_request(rq, op, rq->__data_len);
	linger();
}

static inline_always void completed(u64 *ctx)
{
	struct request *rq = (struct request *)ctx[0];
	u32 op = rq->cmd_flags & OP_MASK;

	if (!(op & 1) || !is_ours(rq))
		return;
	/* Whatever the status: a write that failed may have changed the medium. */
	dirty_request(rq, op, ctx[2]);
	/* After the mark, so that a write that is not in flight any more has been marked. */
	arrive(rq, ctx[2]);
	linger();
}

/*
 * block_rq_issue(struct request *rq), since 5.11: fires before the driver sees the request.
 * block_rq_complete(struct request *rq, blk_status_t error, unsigned int nr_bytes): fires before the submitter is told.
 *
 * Each is there twice: the kernel skips a program that would re-enter itself on one CPU, but not another program, so
 * what interrupts one copy is marked by the other. All they do may be done twice.
 */
SEC("tp_btf/block_rq_issue") int issued_1(u64 *ctx)
{
	issued(ctx);
	return 0;
}

SEC("tp_btf/block_rq_issue") int issued_2(u64 *ctx)
{
	issued(ctx);
	return 0;
}

SEC("tp_btf/block_rq_complete") int completed_1(u64 *ctx)
{
	completed(ctx);
	return 0;
}

SEC("tp_btf/block_rq_complete") int completed_2(u64 *ctx)
{
	completed(ctx);
	return 0;
}

char _license[] SEC("license") = "GPL";
