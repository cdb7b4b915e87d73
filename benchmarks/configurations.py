"""Small configurations of transformers' classes, where the default one is large or does not run by itself.

Name of a class, or the beginning of several -> options of the configuration; the longest that fits counts.
"""

from __future__ import annotations

from typing import Any

Options = dict[str, Any]

WIDTH: Options = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
}
DEEP: Options = {**WIDTH, "num_hidden_layers": 4}
TEXT: Options = {
    **WIDTH,
    **{"vocab_size": 64, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
STAGES: Options = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
DINO: Options = {
    **{"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4},
    **{"patch_size": 16, "image_size": 64, "reshape_hidden_states": False, "apply_layernorm": True},
    **STAGES,
}
RESNET: Options = {
    **{"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4},
    **{"layer_type": "basic", "out_features": ["stage2", "stage3", "stage4"]},
}
SWIN: Options = {
    **{"model_type": "swin", "image_size": 64, "embed_dim": 16, "depths": [1] * 4, "window_size": 4},
    **{"num_heads": [2] * 4, **STAGES},
}
BERT: Options = {**WIDTH, "model_type": "bert", "vocab_size": 64, "pad_token_id": 0}
LAYERS: Options = {
    **{"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 6},
}
DETR: Options = {"backbone_config": RESNET, "num_labels": 4, "d_model": 32, **LAYERS}
RT_DETR: Options = {
    **DETR,
    "backbone_config": {**RESNET, "model_type": "rt_detr_resnet"},
    **{"encoder_hidden_dim": 32, "encoder_in_channels": [16, 24, 32], "feat_strides": [8, 16, 32]},
    **{"decoder_in_channels": [32] * 3, "num_denoising": 0, "hidden_expansion": 0.5},
}
HGNET: Options = {
    **{"model_type": "hgnet_v2", "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 32, 64]},
    **{"stage_mid_channels": [8, 8, 16, 16], "stage_out_channels": [16, 32, 64, 128]},
    **{"stage_num_blocks": [1] * 4, "stage_numb_of_layers": [3] * 4, "embedding_size": 8},
    **{"hidden_sizes": [16, 32, 64, 128], "depths": [1] * 4, "use_learnable_affine_block": True},
    **{"out_features": ["stage2", "stage3", "stage4"]},
}
D_FINE: Options = {
    **{key: value for key, value in RT_DETR.items() if key != "num_labels"},
    **{"backbone_config": HGNET, "encoder_in_channels": [32, 64, 128], "lqe_hidden_dim": 8},
}
WINDOWED: Options = {
    **{"model_type": "lw_detr_vit", "image_size": 64, "patch_size": 8, "num_windows": 4, **DEEP},
    **{"window_block_indices": [0, 2], "out_features": ["stage2", "stage4"], "pretrain_image_size": 64},
}
WINDOWED = {key: value for key, value in WINDOWED.items() if key != "intermediate_size"}
GROUPED: Options = {
    **{"num_labels": 4, "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 32, "num_queries": 6},
    **{"decoder_self_attention_heads": 4, "decoder_cross_attention_heads": 4, "group_detr": 1},
}
MASKS: Options = {
    **{"backbone_config": SWIN, "num_queries": 6, "encoder_layers": 1, "decoder_layers": 3},
    **{"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32},
    **{"dim_feedforward": 32, "num_attention_heads": 4, "num_labels": 4},
}
SIGLIP: Options = {
    **WIDTH,
    **{"model_type": "siglip_vision_model", "image_size": 64, "patch_size": 16, "vision_use_head": False},
}

CLIP_VISION: Options = {**WIDTH, "image_size": 64, "patch_size": 16, "projection_dim": 32}
SAM_HEAD: Options = {
    **{"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 16},
}
SAM: Options = {
    "vision_config": {
        **{"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_pos_feats": 16, "window_size": 3, "global_attn_indexes": [1], "mlp_dim": 64},
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "mask_input_channels": 4},
    "mask_decoder_config": SAM_HEAD,
}
HIERA: Options = {
    **{"model_type": "sam2_hiera_det_model", "hidden_size": 16, "image_size": [64, 64]},
    **{"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128]},
    **{"num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [8, 4, 2, 2]},
    **{"global_attention_blocks": [3]},
}
SAM_2: Options = {
    "vision_config": {
        **{"backbone_config": HIERA, "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32},
        **{"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "mask_input_channels": 4},
    "mask_decoder_config": SAM_HEAD,
}

_ALONG = {
    **{"vertical_long_to_small_conv": (1, 0), "horizontal_small_to_long_conv": (0, 1)},
    **{"symmetric_conv_long": (1, 1)},
}
STRIPES: Options = {
    **{"reduce_channel": [1, 1, 0], "return_channel": [1, 1, 0]},
    **{
        f"{name}_{ratio}ratio": [
            [size if along else 1 for along in axes],
            [1, 1],
            [size // 2 * a for a in axes],
        ]
        for name, axes in _ALONG.items()
        for ratio, size in (("long", 7), ("mid", 5), ("short", 3))
    },
}
TEXT_DETECTOR: Options = {
    **{"backbone_config": {**HGNET, **STAGES}, "neck_out_channels": 16, "kernel_list": [3, 2, 2]},
    **{"scale_factor_list": [1, 2, 4, 8], "intraclass_block_config": STRIPES},
}
PAIR: Options = {
    "text_config": {**WIDTH, "vocab_size": 64},
    "vision_config": {**WIDTH, "patch_size": 16},
}

CONFIGURATIONS: dict[str, Options] = {
    "Align": {
        "text_config": BERT, "projection_dim": 80,
        "vision_config": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    },
    "AltCLIP": {
        "text_config": {**WIDTH, "vocab_size": 64, "project_dim": 32}, "vision_config": CLIP_VISION,
        "projection_dim": 32,
    },
    "Beit": {**DEEP, "out_indices": [1, 2, 3, 4], "auxiliary_channels": 8},
    "Data2VecVision": {**DEEP, "out_indices": [0, 1, 2, 3], "auxiliary_channels": 8},
    "Blip2": {
        "vision_config": {**WIDTH, "image_size": 64, "patch_size": 16}, "image_text_hidden_size": 16,
        "qformer_config": {
            **WIDTH, "vocab_size": 64, "encoder_hidden_size": 32, "use_qformer_text_input": True,
        },
        "text_config": {**TEXT, "model_type": "opt", "ffn_dim": 32, "word_embed_proj_dim": 32},
        "num_query_tokens": 4,
    },
    "CHMv2": {
        "backbone_config": {**DEEP, **STAGES, "model_type": "dinov3_vit", "image_size": 64,
                            "reshape_hidden_states": True, "return_class_token": True},
        "reassemble_factors": [4, 2, 1, 0.5], "post_process_channels": [8, 8, 16, 16],
        "fusion_hidden_size": 16, "head_hidden_size": 8, "number_output_channels": 16,
    },
    "Cohere2Vision": {
        "vision_config": SIGLIP, "text_config": {**TEXT, "model_type": "cohere2"},
        "image_token_id": 60, "alignment_intermediate_size": 64,
    },
    "ConditionalDetr": DETR,
    "DabDetr": {"hidden_size": 32, **{key: value for key, value in DETR.items() if key != "d_model"}},
    "DFine": D_FINE,
    "Deimv2": D_FINE,
    "DeformableDetr": DETR,
    "DepthAnything": {
        "backbone_config": DINO, "patch_size": 16, "reassemble_hidden_size": 32,
        "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "head_hidden_size": 8,
    },
    "DepthPro": {
        "patch_size": 16, "scaled_images_ratios": [0.5, 1.0], "scaled_images_overlap_ratios": [0.0, 0.25],
        "scaled_images_feature_dims": [12, 12], "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [8, 8], "fusion_hidden_size": 20,
        **{f"{part}_model_config": {**DINO, "num_hidden_layers": 2, "patch_size": 4, "image_size": 16,
                                    "out_features": ["stage2"]}
           for part in ("image", "patch", "fov")},
    },
    "Detr": DETR,
    "DetrForSegmentation": {**DETR, "encoder_attention_heads": 8, "decoder_attention_heads": 8},
    "DPT": {
        **DEEP, "is_hybrid": False, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16, "neck_ignore_stages": [], "num_labels": 4,
    },
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "DeiT": WIDTH,
    "Dinov2": {key: value for key, value in DINO.items() if key[:5] not in ("model", "resha")},
    "DINOv3ViT": WIDTH,
    "EdgeTam": {
        **SAM_2,
        "vision_config": {
            "backbone_channel_list": [1024, 512, 256, 64], "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        "prompt_encoder_config": {**SAM_2["prompt_encoder_config"], "patch_size": 8},
    },
    "Eomt": {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_blocks": 2,
        "num_queries": 6, "mlp_ratio": 2, "num_labels": 4,
    },
    "EomtDinov3": {**DEEP, "num_blocks": 2, "num_queries": 6, "num_labels": 4},
    "GroundingDino": {
        **DETR, "backbone_config": {**SWIN, "out_features": ["stage2", "stage3", "stage4"]},
        "text_config": BERT, "num_feature_levels": 3, "max_text_len": 8, "num_queries": 6,
    },
    "IJepa": WIDTH,
    "ImageGPT": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 17, "n_positions": 64},
    "Llama4Vision": {
        **WIDTH, "intermediate_size": 128, "projector_input_dim": 64, "projector_output_dim": 64,
        "vision_output_dim": 64, "patch_size": 16, "image_size": 64,
    },
    "Mllama": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 4,
        "intermediate_size": 32, "vision_output_dim": 64, "patch_size": 16, "image_size": 64,
        "max_num_tiles": 1, "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]],
    },
    "OmDetTurbo": {
        "backbone_config": {**SWIN, "out_features": ["stage2", "stage3", "stage4"]},
        "text_config": {**WIDTH, "model_type": "clip_text_model", "vocab_size": 64, "projection_dim": 32,
                        "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
        "encoder_in_channels": [32, 64, 128], "vision_features_channels": [16] * 3, "num_queries": 6,
        "encoder_hidden_dim": 16, "decoder_hidden_dim": 16, "encoder_attention_heads": 4,
        "decoder_num_heads": 4, "encoder_dim_feedforward": 32, "decoder_dim_feedforward": 32,
        "text_projection_in_dim": 32, "text_projection_out_dim": 32, "task_encoder_hidden_dim": 32,
        "class_embed_dim": 32, "decoder_num_layers": 2, "image_size": 64,
        "apply_layernorm_after_vision_backbone": False,
    },
    "Owl": {
        "vision_config": {**WIDTH, "image_size": 64, "patch_size": 16}, "projection_dim": 32,
        "text_config": {**WIDTH, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2},
    },
    "LwDetr": {**GROUPED, "backbone_config": WINDOWED, "projector_scale_factors": [1.0]},
    "LwDetrViTBackbone": WINDOWED,
    "Mask2Former": MASKS,
    "MaskFormer": {
        "backbone_config": SWIN, "fpn_feature_size": 32, "mask_feature_size": 32, "num_labels": 4,
        "decoder_config": {"model_type": "detr", **DETR},
    },
    "MaskFormerSwinBackbone": {key: value for key, value in SWIN.items() if key != "model_type"},
    "MLCD": WIDTH,
    "MMGroundingDino": {
        **DETR, "backbone_config": {**SWIN, "out_features": ["stage2", "stage3", "stage4"]},
        "text_config": BERT, "num_feature_levels": 3, "max_text_len": 8, "num_queries": 6,
    },
    "OneFormer": {
        **MASKS, "conv_dim": 32, "mask_dim": 32, "text_encoder_width": 32, "text_encoder_num_layers": 1,
        "text_encoder_vocab_size": 64, "text_encoder_context_length": 8, "text_encoder_n_ctx": 2,
        "task_seq_len": 8, "query_dec_layers": 1,
    },
    "Perceiver": {
        "num_latents": 8, "d_latents": 32, "num_blocks": 1, "num_self_attends_per_block": 2,
        "num_cross_attention_heads": 1, "num_self_attention_heads": 4, "image_size": 32, "num_labels": 4,
    },
    "Pixio": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "PPDocLayout": RT_DETR,
    "PPDocLayoutV3": {
        **RT_DETR, "x4_feat_dim": 8, "backbone_config": {**RESNET, **STAGES, "model_type": "rt_detr_resnet"},
    },
    "PPDocLayoutV2": {
        **RT_DETR, "class_thresholds": [0.5] * 4, "class_order": [0, 1, 2, 3],
        "reading_order_config": {**WIDTH, "num_classes": 4},
    },
    "PPOCRV5Server": TEXT_DETECTOR,
    "PPOCRV6Medium": TEXT_DETECTOR,
    "PPOCRV6Small": {
        "backbone_config": {
            "model_type": "pp_lcnet_v3", "scale": 0.75, "divisor": 16,
            "out_features": ["stage2", "stage3", "stage4", "stage5"],
        },
        "layer_list_out_channels": [48, 96, 192, 384],
    },
    "PromptDepthAnything": {
        "backbone_config": DINO, "patch_size": 16, "reassemble_hidden_size": 32,
        "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "head_hidden_size": 8,
    },
    "RTDetr": RT_DETR,
    "RTDetrResNetBackbone": {key: value for key, value in RESNET.items() if key != "model_type"},
    "RfDetr": {
        **GROUPED,
        "backbone_config": {
            "model_type": "rf_detr_dinov2", "hidden_size": 32, "num_hidden_layers": 4,
            "num_attention_heads": 4, "image_size": 64, "patch_size": 8, "num_windows": 2, **STAGES,
        },
    },
    "RfDetrDinov2Backbone": {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 64,
        "patch_size": 8, "num_windows": 2, **STAGES,
    },
    "Sam2": SAM_2,
    "Sam3Tracker": {
        **SAM_2,
        "vision_config": {
            "backbone_config": {
                **WIDTH, "model_type": "sam3_vit_model", "image_size": 64, "patch_size": 16,
                "pretrain_image_size": 64, "window_size": 2, "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
    },
    "SamHQ": {**SAM, "mask_decoder_config": {**SAM_HEAD, "vit_dim": 32}},
    "SamModel": SAM,
    "Sapiens2": {
        **DEEP, **STAGES, "num_key_value_attention_heads": 4, "num_first_full_attention_layers": 1,
        "num_last_full_attention_layers": 1, "num_labels": 4,
        "head_config": {
            "upsample_out_channels": [16, 16], "upsample_kernel_sizes": [4, 4],
            "conv_out_channels": [16], "conv_kernel_sizes": [1], "use_pixel_shuffle": False,
        },
    },
    "ShieldGemma2": {
        "vision_config": SIGLIP, "mm_tokens_per_image": 4, "image_token_index": 60,
        "yes_token_index": 7, "no_token_index": 8,
        "text_config": {
            **TEXT, "model_type": "gemma3_text", "query_pre_attn_scalar": 8, "sliding_window": 32,
        },
    },
    "SuperPoint": {
        "encoder_hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16, "keypoint_decoder_dim": 65,
        "descriptor_decoder_dim": 16, "max_keypoints": 8,
    },
    "SiglipModel": PAIR,
    "Siglip2Model": {**PAIR, "vision_config": {**WIDTH, "patch_size": 16, "num_patches": 16}},
    "Swin": {key: value for key, value in SWIN.items() if key != "model_type"},
    "SwinForMasked": {
        **{key: value for key, value in SWIN.items() if key not in ("model_type", "out_features")},
        "encoder_stride": 32,
    },
    "Swin2SR": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "TableTransformer": DETR,
    "Timesformer": {**WIDTH, "num_frames": 2},
    "TimmBackbone": {"backbone": "resnet18"},
    "TimmWrapper": {"architecture": "resnet18"},
    "Tipsv2Model": {
        "text_config": {**WIDTH, "vocab_size": 64},
        "vision_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    },
    "Tipsv2Vision": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "Tipsv2Dpt": {
        "backbone_config": {
            "model_type": "tipsv2_vision_model", "hidden_size": 32, "num_hidden_layers": 4,
            "num_attention_heads": 4, "image_size": 64, "patch_size": 16, "reshape_hidden_states": False,
            **STAGES,
        },
        "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "num_depth_bins": 16,
        "reassemble_factors": [4, 2, 1, 0.5],
    },
    "UperNet": {
        "backbone_config": SWIN, "hidden_size": 32, "auxiliary_channels": 8, "auxiliary_in_channels": 64,
    },
    "Videomt": {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_blocks": 2,
        "num_queries": 6, "mlp_ratio": 2, "num_labels": 4,
    },
    "VideoMAE": {
        **WIDTH, "num_frames": 4, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 4, "decoder_intermediate_size": 32,
    },
    "VideoPrismClip": {
        "vision_config": {
            "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "num_spatial_layers": 2,
            "num_temporal_layers": 1, "num_auxiliary_layers": 1, "num_frames": 4, "image_size": 64,
            "tubelet_size": [1, 16, 16],
        },
        "text_config": {**WIDTH, "vocab_size": 64},
    },
    "VideoPrism": {
        "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "num_spatial_layers": 2,
        "num_temporal_layers": 1, "num_auxiliary_layers": 1, "num_frames": 4, "tubelet_size": [1, 16, 16],
    },
    "ViTFor": WIDTH,
    "ViTMAE": {
        **WIDTH, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 4, "decoder_intermediate_size": 32,
    },
    "ViTModel": WIDTH,
    "ViTMSN": WIDTH,
    "Vivit": {**WIDTH, "num_frames": 4},
    "VitDet": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pretrain_image_size": 64,
    },
    "VitMatte": {
        "backbone_config": {
            "model_type": "vitdet", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_channels": 4, "image_size": 64, "pretrain_image_size": 64, "window_size": 2,
            "window_block_indices": [0], "residual_block_indices": [1], "out_features": ["stage2"],
        },
        "hidden_size": 32, "convstream_hidden_sizes": [8, 8, 8], "fusion_hidden_sizes": [16, 8, 8, 8],
    },
    "VJEPA2": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pred_hidden_size": 32,
        "pred_num_hidden_layers": 2, "pred_num_attention_heads": 4, "frames_per_clip": 4,
        "crop_size": 64, "num_pooler_layers": 1,
    },
    "VitPoseBackbone": {**DEEP, "image_size": [64, 64]},
    "VitPose": {
        "backbone_config": {**DEEP, "model_type": "vitpose_backbone", "image_size": [64, 64],
                            "out_features": ["stage4"]},
        "num_labels": 5,
    },
    "Yolos": {**WIDTH, "num_detection_tokens": 6, "num_labels": 4},
    "ZoeDepth": {
        "backbone_config": {**DEEP, **STAGES, "model_type": "beit", "image_size": 64,
                            "reshape_hidden_states": False},
        "neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "bottleneck_features": 16,
    },
}  # fmt: skip


def options_of(name: str) -> Options:
    """Return those of the class `name`; none where the defaults run."""
    known = [key for key in CONFIGURATIONS if name.startswith(key)]
    return CONFIGURATIONS[max(known, key=len)] if known else {}
