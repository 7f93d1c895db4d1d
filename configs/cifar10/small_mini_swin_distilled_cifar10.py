# The small Mini-Swin learning from its teacher alone, on all three levels, in as many steps. Train
# small_mini_swin_teacher_cifar10.py first, or name another checkpoint by
# --cfg-options model.teacher.checkpoint=FILE; `model.distillation.hidden=None` leaves a level out.
_base_ = "small_mini_swin_cifar10.py"
# The last layers of the first stage, and of the middle and the end of the second.
layers = [(1, 1), (3, 3), (5, 5)]
model = dict(
    type="DistilledClassifier",
    teacher=dict(
        config="{{ fileDirname }}/small_mini_swin_teacher_cifar10.py",
        checkpoint="work_dirs/small_mini_swin_teacher_cifar10/epoch_4.pth",
    ),
    distillation=dict(
        prediction=dict(weight=1.0),
        attention=dict(weight=1.0, layers=layers),
        hidden=dict(weight=0.1, layers=layers),
    ),
    label_weight=0.0,
    img_size=32,
)
custom_imports = dict(imports=["halvit_mm", "halvit_mm.distillation"])
