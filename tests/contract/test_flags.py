"""The flags people type: none may disappear or change its meaning unnoticed."""

from mindformers.cli.flags import FLAGS, all_spellings
from mindformers.config.run_config import RunConfig
from mindformers.config.schema import all_keys

PUBLISHED = set(
    """
    --config --mode --device_id --device_target --run_mode --do_eval --train_dataset_dir
    --eval_dataset_dir --predict_data --modal_type --predict_batch_size --adapter_id
    --load_checkpoint --src_strategy_path_or_dir --auto_trans_ckpt --transform_process_num
    --only_save_strategy --resume_training --strategy_load_checkpoint --remote_save_url --seed
    --use_parallel --profile --options --epochs --batch_size --gradient_accumulation_steps
    --sink_mode --num_samples --output_dir --register_path --do_sample --trust_remote_code
""".split()  # noqa: SIM905 - one list that reads like the manual
)
DOCUMENTED_PREFIXES = {"--train_dataset", "--eval_dataset"}
OWN = {
    "--allow_data_change",
    "--devices",
    "--device_memory",
    "--device",
    "--quantization",
    "--prompt_lookup",
    "--assistant_model",
    "--debug",
    "--help",
    "-h",
}


def test_the_set_of_flags_is_frozen():
    assert all_spellings() == sorted(PUBLISHED | DOCUMENTED_PREFIXES | OWN)


def test_every_flag_sets_a_key_that_exists_and_no_two_the_same():
    keys = [flag.key for flag in FLAGS]
    assert set(keys) <= {path for path, _ in all_keys(RunConfig)}
    assert len(set(keys)) == len(keys)
