/* The image, in a section that the linker script places: -DIMAGE='"story.plm"'. */
    .section .image, "a"
    .balign 64
    .global image
    .global image_end
image:
    .incbin IMAGE
image_end:
