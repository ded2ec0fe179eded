// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults on demand: rules that a test writes to a debugfs file, one a line.
 *
 *	WHERE [nth=N] [status=N] [syndrome=N] [errno=N] [submit_errno=N]
 *	      [delay_us=N|never] [damage] [disable_vf]
 *	clear
 *
 * WHERE is a command or a kind of it; without nth a rule holds for every one.
 */
#include <linux/debugfs.h>
#include <linux/list.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "mlx5_lab.h"

#define LAB_MAX_RULE 200

struct lab_rule {
	struct list_head entry;
	enum lab_where where;
	u64 nth;
	u64 seen;
	u64 hits;
	struct lab_fault fault;
	char text[LAB_MAX_RULE];
};

static const char * const lab_where_names[LAB_WHERE_NR] = {
	[LAB_WHERE_QUERY] = "query",
	[LAB_WHERE_SUSPEND_INITIATOR] = "suspend_initiator",
	[LAB_WHERE_SUSPEND_RESPONDER] = "suspend_responder",
	[LAB_WHERE_RESUME_RESPONDER] = "resume_responder",
	[LAB_WHERE_RESUME_INITIATOR] = "resume_initiator",
	[LAB_WHERE_SAVE] = "save",
	[LAB_WHERE_SAVE_INITIAL] = "save_initial",
	[LAB_WHERE_SAVE_MIDDLE] = "save_middle",
	[LAB_WHERE_SAVE_FINAL] = "save_final",
	[LAB_WHERE_SAVE_CLEANUP] = "save_cleanup",
	[LAB_WHERE_LOAD] = "load",
	[LAB_WHERE_ALLOC_PD] = "alloc_pd",
	[LAB_WHERE_CREATE_MKEY] = "create_mkey",
};

static bool lab_rule_covers(const struct lab_rule *rule, enum lab_where where)
{
	bool save = where >= LAB_WHERE_SAVE_INITIAL && where <= LAB_WHERE_SAVE_CLEANUP;

	return rule->where == where || (save && rule->where == LAB_WHERE_SAVE);
}

static void lab_merge(struct lab_fault *into, const struct lab_fault *from)
{
	if (from->status) {
		into->status = from->status;
		into->syndrome = from->syndrome;
	}
	if (from->error)
		into->error = from->error;
	if (from->submit_error)
		into->submit_error = from->submit_error;
	if (from->delayed) {
		into->delayed = true;
		into->never = from->never;
		into->delay_us = from->delay_us;
	}
	into->damage |= from->damage;
	into->disable_vf |= from->disable_vf;
}

/* Return what the rules hold for this command, which is counted by them. */
struct lab_fault lab_fault_for(struct lab_faults *faults, enum lab_where where)
{
	struct lab_fault found = {};
	struct lab_rule *rule;

	mutex_lock(&faults->lock);
	list_for_each_entry(rule, &faults->rules, entry) {
		if (!lab_rule_covers(rule, where))
			continue;
		rule->seen++;
		if (rule->nth && rule->nth != rule->seen)
			continue;
		rule->hits++;
		lab_merge(&found, &rule->fault);
	}
	mutex_unlock(&faults->lock);
	return found;
}

static int lab_parse_word(struct lab_rule *rule, char *word)
{
	char *value = strchr(word, '=');
	u64 number = 0;

	if (!strcmp(word, "damage")) {
		rule->fault.damage = true;
		return 0;
	}
	if (!strcmp(word, "disable_vf")) {
		rule->fault.disable_vf = true;
		return 0;
	}
	if (!value)
		return -EINVAL;
	*value++ = '\0';
	if (!strcmp(word, "delay_us") && !strcmp(value, "never")) {
		rule->fault.delayed = true;
		rule->fault.never = true;
		return 0;
	}
	if (kstrtou64(value, 0, &number))
		return -EINVAL;
	if (!strcmp(word, "nth") && number) {
		rule->nth = number;
	} else if (!strcmp(word, "status") && number && number <= U8_MAX) {
		rule->fault.status = number;
	} else if (!strcmp(word, "syndrome") && number <= U32_MAX) {
		rule->fault.syndrome = number;
	} else if (!strcmp(word, "errno") && number && number <= MAX_ERRNO) {
		rule->fault.error = -(int)number;
	} else if (!strcmp(word, "submit_errno") && number && number <= MAX_ERRNO) {
		rule->fault.submit_error = -(int)number;
	} else if (!strcmp(word, "delay_us")) {
		rule->fault.delayed = true;
		rule->fault.delay_us = number;
	} else {
		return -EINVAL;
	}
	return 0;
}

static bool lab_rule_fits(const struct lab_faults *faults, const struct lab_rule *rule)
{
	const struct lab_fault *fault = &rule->fault;
	bool object = rule->where >= LAB_WHERE_ALLOC_PD;
	bool save = rule->where >= LAB_WHERE_SAVE && rule->where <= LAB_WHERE_SAVE_CLEANUP;
	bool image = save || rule->where == LAB_WHERE_LOAD;

	if (object != faults->objects)
		return false;
	if (object && (!fault->error || fault->delayed || fault->status))
		return false;
	if ((fault->damage && !image) || (fault->submit_error && !save))
		return false;
	if (fault->syndrome && !fault->status)
		return false;
	return !(object && (fault->damage || fault->disable_vf));
}

static int lab_add_rule(struct lab_faults *faults, char *line)
{
	struct lab_rule *rule = kzalloc(sizeof(*rule), GFP_KERNEL);
	int where, ret = 0;
	char *word;

	if (!rule)
		return -ENOMEM;
	strscpy(rule->text, line, sizeof(rule->text));
	word = strsep(&line, " ");
	where = match_string(lab_where_names, LAB_WHERE_NR, word);
	if (where < 0 || !line) {
		kfree(rule);
		return -EINVAL;
	}
	rule->where = where;
	while (!ret && (word = strsep(&line, " ")))
		ret = *word ? lab_parse_word(rule, word) : 0;
	if (!ret && !lab_rule_fits(faults, rule))
		ret = -EINVAL;
	if (ret) {
		kfree(rule);
		return ret;
	}
	mutex_lock(&faults->lock);
	list_add_tail(&rule->entry, &faults->rules);
	mutex_unlock(&faults->lock);
	return 0;
}

void lab_faults_clear(struct lab_faults *faults)
{
	struct lab_rule *rule, *next;

	mutex_lock(&faults->lock);
	list_for_each_entry_safe(rule, next, &faults->rules, entry) {
		list_del(&rule->entry);
		kfree(rule);
	}
	mutex_unlock(&faults->lock);
}

void lab_faults_init(struct lab_faults *faults, bool objects)
{
	mutex_init(&faults->lock);
	INIT_LIST_HEAD(&faults->rules);
	faults->objects = objects;
}

static int lab_faults_show(struct seq_file *file, void *unused)
{
	struct lab_faults *faults = file->private;
	struct lab_rule *rule;

	mutex_lock(&faults->lock);
	list_for_each_entry(rule, &faults->rules, entry)
		seq_printf(file, "%s # seen %llu, hit %llu\n", rule->text, rule->seen,
			   rule->hits);
	mutex_unlock(&faults->lock);
	return 0;
}

static ssize_t lab_faults_write(struct file *file, const char __user *buffer,
				size_t length, loff_t *position)
{
	struct lab_faults *faults = ((struct seq_file *)file->private_data)->private;
	char *text, *line, *rest;
	int ret = 0;

	if (length > PAGE_SIZE)
		return -E2BIG;
	text = memdup_user_nul(buffer, length);
	if (IS_ERR(text))
		return PTR_ERR(text);
	rest = text;
	while (!ret && (line = strsep(&rest, "\n"))) {
		line = strim(line);
		if (!strcmp(line, "clear"))
			lab_faults_clear(faults);
		else if (strlen(line) >= LAB_MAX_RULE)
			ret = -E2BIG;
		else if (*line)
			ret = lab_add_rule(faults, line);
	}
	kfree(text);
	return ret ?: length;
}

static int lab_faults_open(struct inode *inode, struct file *file)
{
	return single_open(file, lab_faults_show, inode->i_private);
}

const struct file_operations lab_faults_fops = {
	.owner = THIS_MODULE,
	.open = lab_faults_open,
	.read = seq_read,
	.write = lab_faults_write,
	.llseek = seq_lseek,
	.release = single_release,
};
